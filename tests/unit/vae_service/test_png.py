import io

import pytest
from PIL import Image

from services.domain.errors import Unsupported
from services.domain.model import MediaFormat
from vae_service.media import encode_media


@pytest.fixture
def picture() -> Image.Image:
    picture = Image.radial_gradient("L").convert("RGB").resize((96, 64))
    picture.putpixel((3, 5), (1, 2, 3))
    return picture


def chunks(png: bytes) -> list[bytes]:
    """The kinds of a PNG file's chunks, in order."""
    kinds, position = [], 8
    while position < len(png):
        length = int.from_bytes(png[position : position + 4])
        kinds.append(png[position + 4 : position + 8])
        position += 12 + length
    return kinds


def test_every_pixel_survives(picture: Image.Image) -> None:
    again = Image.open(io.BytesIO(encode_media(picture, MediaFormat.PNG)))
    assert (again.format, again.mode, again.size) == ("PNG", "RGB", (96, 64))
    assert again.tobytes() == picture.tobytes()


def test_equal_pixels_give_equal_bytes(picture: Image.Image) -> None:
    png = encode_media(picture, MediaFormat.PNG)
    assert encode_media(picture.copy(), MediaFormat.PNG) == png
    picture.putpixel((0, 0), (9, 9, 9))
    assert encode_media(picture, MediaFormat.PNG) != png


def test_a_file_holds_pixels_and_nothing_else(picture: Image.Image) -> None:
    kinds = chunks(encode_media(picture, MediaFormat.PNG))
    assert kinds[0] == b"IHDR"
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize("media_format", [MediaFormat.MP4, MediaFormat.PNG_ARCHIVE])
def test_formats_for_more_than_one_picture_are_refused(
    picture: Image.Image, media_format: MediaFormat
) -> None:
    with pytest.raises(Unsupported, match=f"media_format: is {media_format}; served is png"):
        encode_media(picture, media_format)
