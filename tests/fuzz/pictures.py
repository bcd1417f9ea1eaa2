"""Pictures: sound, damaged, put together wrongly, and claiming what they are not."""

from collections.abc import Callable
from functools import cache
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from services.pictures.input_picture import decode_described, describe_picture
from tests.fuzz.campaign import OK, Target, refusal
from tests.unit.pictures.drawn import chunks_of, drawn, encoded, header_of, png_of, turned
from triptych.domain.errors import InvalidRequest

_CHUNK_KINDS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"zTXt")
_SIDES = st.sampled_from([0, 1, 7, 8192, 8193, 65_535, 2**31 - 1, 2**32 - 1])


@cache
def files() -> tuple[bytes, ...]:
    """Of every kind, taken or not: small, so that damage meets what matters."""
    size = (24, 16)
    every = [
        *(encoded(drawn(mode, size), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *(encoded(drawn(mode, size), "JPEG") for mode in ("L", "RGB", "CMYK")),
        *(encoded(drawn(mode, size), "WEBP") for mode in ("RGB", "RGBA")),
        *(encoded(drawn("RGB", size), kind, exif=turned(6)) for kind in ("PNG", "JPEG", "WEBP")),
        *(encoded(drawn("RGB", size), kind) for kind in ("GIF", "BMP", "TIFF", "ICO", "PPM")),
        encoded(drawn("P", size), "PNG", transparency=3),
        encoded(drawn("RGB", size), "JPEG", progressive=True),
        encoded(drawn("RGB", size), "WEBP", lossless=True),
        encoded(drawn("RGB", size), "PNG", save_all=True, append_images=[drawn("L", size)]),
        encoded(drawn("RGB", size), "MPO", save_all=True, append_images=[drawn("RGB", size)]),
        encoded(Image.new("I;16", size), "PNG"),
    ]
    return tuple(every)


def picture_target() -> Target:
    """What the gateway does with a picture, and then a stage."""
    inputs = st.one_of(
        _damaged(),
        _damaged(),
        _rearranged(),
        st.builds(header_of, _SIDES, _SIDES),
        st.binary(max_size=200),
        st.sampled_from(files()).flatmap(_cut),
    )
    return Target("pictures", inputs, _read, 15_000)


def _read(data: bytes) -> str:
    try:
        described = describe_picture("images[0]", data)
        assert described.width > 0
        assert described.height > 0
        picture = decode_described(0, described, data)
    except InvalidRequest as error:
        return refusal(error)
    # What is wrong must be found before a model converts the picture.
    for mode in ("RGB", "RGBA"):
        picture.convert(mode)
    return OK


def _cut(data: bytes) -> st.SearchStrategy[bytes]:
    return st.integers(0, len(data)).map(lambda length: data[:length])


@st.composite
def _damaged(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    data = bytearray(draw(st.sampled_from(files())))
    for _ in range(draw(st.integers(1, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@st.composite
def _rearranged(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    """PNG files of parts that do not belong together, with right checksums."""
    pngs = [each for each in files() if each.startswith(b"\x89PNG")]
    parts = list(chunks_of(draw(st.sampled_from(pngs))))
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(_CHUNK_KINDS))
        chunk = (kind, draw(st.binary(max_size=40)))
        parts.insert(draw(st.integers(0, len(parts))), chunk)
    if draw(st.booleans()):
        del parts[draw(st.integers(0, len(parts) - 1))]
    return png_of(parts)
