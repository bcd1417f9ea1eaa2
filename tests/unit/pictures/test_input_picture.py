import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xxhash
from diffusers.utils import load_image
from PIL import Image, ImageFile, ImageOps, WebPImagePlugin

from services.pictures.input_picture import (
    MAX_BYTES,
    MAX_PIXELS,
    decode_described,
    decode_picture,
    decode_pictures,
    describe_picture,
)
from tests.unit.pictures.drawn import KINDS, drawn, encoded, header_of, refusal, turned
from triptych.domain.errors import InvalidRequest


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_the_three_kinds_are_described_and_decoded(kind: str) -> None:
    data = encoded(drawn(), kind)
    described = describe_picture("images[0]", data)
    assert (described.width, described.height, described.size_bytes) == (40, 24, len(data))
    assert described.checksum_xxh3 == xxhash.xxh3_64_intdigest(data)
    assert decode_picture("images[0]", data).size == (40, 24)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_pictures_keep_the_mode_of_their_file(mode: str) -> None:
    assert decode_picture("images[0]", encoded(drawn(mode))).mode == mode


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_photographs_of_every_kind_of_colour_are_taken(mode: str) -> None:
    assert decode_picture("images[0]", encoded(drawn(mode), "JPEG")).mode == mode


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_the_right_way_up(kind: str, orientation: int) -> None:
    data = encoded(drawn(), kind, exif=turned(orientation))
    upright = decode_picture("images[0]", data)
    described = describe_picture("images[0]", data)
    assert upright.size == (described.width, described.height)
    assert upright.size == ((24, 40) if orientation >= 5 else (40, 24))
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright.tobytes() == shown.tobytes()


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


def test_the_largest_picture_is_described_as_any_other() -> None:
    described = describe_picture("images[0]", header_of(MAX_PIXELS // 4096, 4096))
    assert (described.width, described.height) == (16_384, 4096)
    assert "16385 x 4096 pixels" in refusal(describe_picture, header_of(16_385, 4096))


@pytest.mark.parametrize("kind", KINDS)
def test_no_pixel_is_decoded_to_describe_a_picture(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = encoded(drawn(), kind)
    for each in (ImageFile.ImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(each, "load", lambda _: pytest.fail("pixels are decoded"))
    assert describe_picture("images[0]", data).width == 40


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


def test_sixteen_bits_of_grey_are_refused_with_how_to_convert_them() -> None:
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30))
    assert np.asarray(deep.convert("RGB"))[9:].min() == 255
    assert "scale it to 8 bits first" in refusal(describe_picture, encoded(deep))


ALPHA = bytes(range(256))
KINDS_OF_FILES = {
    **{f"{mode} PNG": encoded(drawn(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    **{f"{mode} JPEG": encoded(drawn(mode), "JPEG") for mode in ("L", "RGB", "CMYK")},
    **{f"{mode} WebP": encoded(drawn(mode), "WEBP") for mode in ("RGB", "RGBA")},
    "palette with one transparent colour": encoded(drawn("P"), transparency=3),
    "palette with shades of transparency": encoded(drawn("P"), transparency=ALPHA),
    "palette with a few of them": encoded(drawn("P"), transparency=ALPHA[:9]),
    "two colours": encoded(drawn().quantize(2), bits=1, transparency=1),
    "four colours": encoded(drawn().quantize(4), bits=2, transparency=1),
    "grey with a transparent one": encoded(drawn("L"), transparency=7),
    "black with it": encoded(drawn("1"), transparency=1),
    "colours with a transparent one": encoded(drawn(), transparency=(1, 2, 3)),
    "turned": encoded(drawn("P"), transparency=3, exif=turned(6)),
}


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_file_gives_the_pixels_that_stock_loads_from_it(kind: str, mode: str) -> None:
    data = KINDS_OF_FILES[kind]
    with warnings.catch_warnings():
        # Of transparency that is lost, which whoever converts to RGB wants.
        warnings.simplefilter("ignore")
        stock = load_image(Image.open(io.BytesIO(data)), lambda image: image.convert(mode))
    assert decode_picture("images[0]", data).convert(mode).tobytes() == stock.tobytes()


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize(
    ("mode", "transparent"),
    [("P", 3), ("P", bytes(range(200))), ("L", 7), ("1", 255), ("RGB", (1, 2, 3))],
)
@pytest.mark.parametrize("wanted", ["RGB", "RGBA"])
def test_a_picture_with_a_transparent_colour_can_be_converted_like_any_other(
    mode: str, transparent: object, wanted: str
) -> None:
    data = encoded(drawn(mode), transparency=transparent)
    with warnings.catch_warnings():
        # Of transparency that is lost, which whoever converts to RGB wants.
        warnings.simplefilter("ignore")
        shown = Image.open(io.BytesIO(data)).convert(wanted)
    decoded = decode_picture("images[0]", data)
    assert decoded.mode == "RGBA"
    assert decoded.convert(wanted).tobytes() == shown.tobytes()


def test_pictures_that_are_read_at_once_leave_no_warning_unheard() -> None:
    data = encoded(drawn(size=(400, 300)))
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(decode_picture, ["images[0]"] * 200, [data] * 200):
            pass
    assert list(warnings.filters) == before
