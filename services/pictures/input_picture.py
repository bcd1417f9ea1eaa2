"""Reads an input picture: first its header alone, much later its pixels."""

import io
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import xxhash
from PIL import Image, UnidentifiedImageError

from services.pictures.png_chunks import without_long_texts
from triptych.domain.errors import InvalidRequest
from triptych.domain.input_image import ImageDescription

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 8192 * 8192
"""As many as decode to 256 MiB of RGBA."""

_FORMATS = ("PNG", "JPEG", "WEBP")
# What Pillow converts to 8 bits per channel without loss of meaning; not 16 bits of grey.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_EXIF_ORIENTATION = 0x0112
# What turns a picture of an EXIF orientation the right way up; 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_ON_ITS_SIDE = 5
# What Pillow's readers stumble with over damaged data.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    struct.error,
)
# What is done with warnings belongs to the process: threads that change and restore it at the same
# time could leave it changed.
_WARNINGS = threading.Lock()


def describe_picture(field: str, data: bytes) -> ImageDescription:
    """Reads a picture's header; no pixel is decoded.

    Args:
        field: what the request calls it, for messages.
        data: the encoded picture.

    Raises:
        InvalidRequest: not one PNG, JPEG or WebP picture, or too large to be decoded safely.
    """
    if len(data) > MAX_BYTES:
        raise InvalidRequest.of(field, f"has {len(data)} bytes; allowed are at most {MAX_BYTES}")
    with _opened(field, data) as image:
        width, height = image.size
        if _orientation(image) >= _FIRST_ON_ITS_SIDE:
            width, height = height, width
    return ImageDescription(
        width=width,
        height=height,
        size_bytes=len(data),
        checksum_xxh3=xxhash.xxh3_64_intdigest(data),
    )


def decode_picture(field: str, data: bytes) -> Image.Image:
    """Decodes a picture the right way up.

    Returns:
        It in the mode that its file has; in RGBA if that mode keeps what is transparent apart.

    Raises:
        InvalidRequest: see describe_picture; or its pixels are damaged or cut off.
    """
    with _opened(field, data) as image:
        try:
            image.load()
            # Of what is kept apart, damage would show only where the picture is converted.
            picture = image.convert("RGBA") if "transparency" in image.info else image.copy()
        except _DAMAGED as error:
            raise InvalidRequest.of(field, f"cannot be decoded: {error}") from error
        turn = _TURNS.get(_orientation(image))
        return picture if turn is None else picture.transpose(turn)


def decode_pictures(
    described: Sequence[ImageDescription], pictures: Sequence[bytes]
) -> tuple[Image.Image, ...]:
    """Decodes the pictures of a request.

    Raises:
        InvalidRequest: they are not those that were described, or cannot be decoded.
    """
    if len(described) != len(pictures):
        raise InvalidRequest.of("images", f"are {len(pictures)}; described are {len(described)}")
    return tuple(
        decode_described(number, each, data)
        for number, (each, data) in enumerate(zip(described, pictures, strict=True))
    )


def decode_described(number: int, described: ImageDescription, data: bytes) -> Image.Image:
    """Decodes one picture of a request.

    Raises:
        InvalidRequest: it is not the one that was described, or cannot be decoded.
    """
    field = f"images[{number}]"
    # Sizes were resolved from the description, and results may be kept under its checksum.
    if xxhash.xxh3_64_intdigest(data) != described.checksum_xxh3:
        raise InvalidRequest.of(field, "is not the picture that was described")
    picture = decode_picture(field, data)
    # A PNG may tell which way is up behind its pixels, where its header is not looked for.
    if picture.size != (described.width, described.height):
        raise InvalidRequest.of(
            field,
            f"is {picture.width} x {picture.height} pixels;"
            f" its header says {described.width} x {described.height}",
        )
    return picture


@contextmanager
def _opened(field: str, data: bytes) -> Iterator[Image.Image]:
    if not data:
        raise InvalidRequest.of(field, "is empty; allowed are PNG, JPEG and WebP")
    with _WARNINGS, warnings.catch_warnings():
        # Of its own limit, which is wider than ours, and of odd metadata, which we do not read.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(without_long_texts(data)), formats=_FORMATS)
        except UnidentifiedImageError as error:
            raise InvalidRequest.of(
                field, "is not a picture; allowed are PNG, JPEG and WebP"
            ) from error
        except Image.DecompressionBombError as error:
            raise _too_large(field, "has too many pixels; ") from error
        except _DAMAGED as error:
            raise InvalidRequest.of(field, f"has a damaged header: {error}") from error
        with image:
            _check(field, image)
            yield image


def _check(field: str, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(field, f"is {width} x {height} pixels; ")
    frames = getattr(image, "n_frames", 1)
    # Cameras hide further pictures behind the first one of a JPEG, which is the one they show.
    if frames != 1 and image.format != "MPO":
        raise InvalidRequest.of(field, f"has {frames} frames; allowed is 1")
    if image.mode.startswith("I;16"):
        raise InvalidRequest.of(
            field,
            "has 16 bits of grey, which the published pipelines would turn white from 256 of 65535"
            " on; scale it to 8 bits first, each value divided by 257",
        )
    if image.mode not in _MODES:
        raise InvalidRequest.of(
            field, f"has pixels of kind {image.mode!r}; allowed are 8 bits per channel"
        )


def _too_large(field: str, found: str) -> InvalidRequest:
    return InvalidRequest.of(field, f"{found}allowed are at most {MAX_PIXELS} pixels")


def _orientation(image: Image.Image) -> int:
    try:
        # A PNG's own method decodes its pixels, in search of what comes behind them.
        exif = Image.Image.getexif(image)
        orientation = int(exif.get(_EXIF_ORIENTATION, 1))
    except _DAMAGED:
        return 1
    return orientation if orientation in _TURNS else 1
