import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.domain.errors import InvalidRequest
from services.pictures.input_picture import (
    MAX_BYTES,
    MAX_PIXELS,
    decode_described,
    decode_picture,
    decode_pictures,
    describe_picture,
)

ORIENTATION = 0x0112


def drawn(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 4)).astype(np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def header_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def refusal(read: Callable[[str, bytes], object], data: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read("images[0]", data)
    (violation,) = caught.value.violations
    assert violation.field == "images[0]"
    return violation.description


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_the_three_kinds_are_described_and_decoded(kind: str) -> None:
    data = encoded(drawn(), kind)
    described = describe_picture("images[0]", data)
    assert (described.width, described.height, described.size_bytes) == (40, 24, len(data))
    assert described.checksum_xxh3 == xxhash.xxh3_64_intdigest(data)
    assert decode_picture("images[0]", data).size == (40, 24)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_pictures_keep_the_mode_of_their_file(mode: str) -> None:
    assert decode_picture("images[0]", encoded(drawn(mode))).mode == mode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_the_right_way_up(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(drawn(), "PNG", exif=exif)
    upright = decode_picture("images[0]", data)
    described = describe_picture("images[0]", data)
    assert upright.size == (described.width, described.height)
    assert upright.size == ((24, 40) if orientation >= 5 else (40, 24))
    if orientation == 6:
        turned = drawn().transpose(Image.Transpose.ROTATE_270)
        assert upright.tobytes() == turned.tobytes()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_pictures_of_other_kinds_are_refused(kind: str) -> None:
    said = refusal(describe_picture, encoded(drawn(), kind))
    assert said == "is not a picture; allowed are PNG, JPEG and WebP"


@pytest.mark.parametrize("data", [b"hello", b"<svg/>", b"http://example.com/a.png", bytes(100)])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert refusal(describe_picture, data) == "is not a picture; allowed are PNG, JPEG and WebP"


def test_an_empty_picture_is_refused() -> None:
    assert refusal(describe_picture, b"") == "is empty; allowed are PNG, JPEG and WebP"


@pytest.mark.parametrize("side", [8193, 60_000, 2**31 - 1])
def test_a_picture_that_would_burst_when_decoded_is_refused_by_its_header(side: int) -> None:
    for read in (describe_picture, decode_picture):
        assert f"allowed are at most {MAX_PIXELS} pixels" in refusal(read, header_of(side, side))


def test_a_picture_of_too_many_bytes_is_refused_before_it_is_looked_at() -> None:
    said = refusal(describe_picture, bytes(MAX_BYTES + 1))
    assert said == f"has {MAX_BYTES + 1} bytes; allowed are at most {MAX_BYTES}"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_moving_pictures_are_refused(kind: str) -> None:
    others = [drawn().rotate(turn) for turn in (90, 180)]
    data = encoded(drawn(), kind, save_all=True, append_images=others)
    assert refusal(describe_picture, data) == "has 3 frames; allowed is 1"


def test_of_a_cameras_hidden_pictures_the_first_is_taken() -> None:
    data = encoded(drawn(), "MPO", save_all=True, append_images=[drawn(size=(8, 8))])
    assert decode_picture("images[0]", data).size == (40, 24)


def test_pictures_with_more_than_eight_bits_of_grey_are_refused() -> None:
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30))
    assert "allowed are 8 bits per channel" in refusal(describe_picture, encoded(deep))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_was_cut_off_is_refused_when_it_is_decoded(kind: str) -> None:
    data = encoded(drawn(size=(200, 200)), kind)
    refusal(decode_picture, data[: len(data) // 2])


def test_only_the_picture_that_was_described_is_decoded() -> None:
    data, other = encoded(drawn()), encoded(drawn(size=(24, 40)))
    described = describe_picture("images[1]", data)
    assert decode_described(1, described, data).size == (40, 24)
    with pytest.raises(InvalidRequest, match=r"images\[1\]: is not the picture that was described"):
        decode_described(1, described, other)
    with pytest.raises(InvalidRequest, match="images: are 2; described are 1"):
        decode_pictures([described], [data, data])


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_picture_or_refused(data: bytes) -> None:
    for read in (describe_picture, decode_picture):
        with pytest.raises(InvalidRequest):
            read("images[0]", data)


ORIGINALS = [encoded(drawn(), kind) for kind in ("PNG", "JPEG", "WEBP")]


@given(st.sampled_from(ORIGINALS), st.data())
def test_damaged_pictures_are_decoded_or_refused(original: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(original)
    for _ in range(draw.draw(st.integers(1, 6))):
        place = draw.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = draw.draw(st.integers(0, 255))
    for read in (describe_picture, decode_picture):
        try:
            read("images[0]", bytes(damaged))
        except InvalidRequest as error:
            assert error.violations[0].field == "images[0]"  # noqa: PT017 - others must escape
