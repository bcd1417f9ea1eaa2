import io
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from triptych.domain.errors import Unsupported
from triptych.domain.model import MediaFormat
from triptych.domain.output_options import OutputOptions
from vae_service.media import encode_media

# Measured on these frames, whose colours change slowly: 4:2:0 and rounding to limited range.
_COLOUR_TOLERANCE = 6


@pytest.fixture
def picture() -> Image.Image:
    picture = Image.radial_gradient("L").convert("RGB").resize((96, 64))
    picture.putpixel((3, 5), (1, 2, 3))
    return picture


@pytest.fixture
def frames() -> list[Image.Image]:
    across, down = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48))
    return [
        Image.fromarray(np.stack([across, down, np.full_like(down, 25 * each)], -1).astype("uint8"))
        for each in range(9)
    ]


def png(picture: Image.Image) -> bytes:
    return encode_media([picture], MediaFormat.PNG, None)


def chunks(png: bytes) -> list[bytes]:
    """The kinds of a PNG file's chunks, in order."""
    kinds, position = [], 8
    while position < len(png):
        length = int.from_bytes(png[position : position + 4])
        kinds.append(png[position + 4 : position + 8])
        position += 12 + length
    return kinds


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_every_pixel_survives_in_a_png(picture: Image.Image, mode: str) -> None:
    picture = picture.convert(mode)
    again = Image.open(io.BytesIO(png(picture)))
    assert (again.format, again.mode, again.size) == ("PNG", mode, (96, 64))
    assert again.tobytes() == picture.tobytes()


def test_equal_pixels_give_equal_bytes(picture: Image.Image) -> None:
    first = png(picture)
    assert png(picture.copy()) == first
    picture.putpixel((0, 0), (9, 9, 9))
    assert png(picture) != first


def test_a_png_holds_pixels_and_nothing_else(picture: Image.Image) -> None:
    kinds = chunks(png(picture))
    assert kinds[0] == b"IHDR"
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


def test_an_archive_holds_every_picture_in_order(frames: list[Image.Image]) -> None:
    archive = encode_media(frames, MediaFormat.PNG_ARCHIVE, 16)
    assert encode_media(frames, MediaFormat.PNG_ARCHIVE, 16) == archive
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == [f"{each:04}.png" for each in range(9)]
        drawn = [Image.open(opened.open(name)) for name in opened.namelist()]
        assert [each.tobytes() for each in drawn] == [each.tobytes() for each in frames]


def test_a_video_has_the_frames_rate_and_colours_it_was_made_of(frames: list[Image.Image]) -> None:
    with av.open(io.BytesIO(encode_media(frames, MediaFormat.MP4, 16))) as video:
        (stream,) = video.streams
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.width, context.height) == (64, 48)
        assert stream.average_rate == Fraction(16)
        shown = [each.to_ndarray(format="rgb24") for each in video.decode(stream)]
    assert len(shown) == 9
    for ours, theirs in zip(frames, shown, strict=True):
        difference = np.abs(np.asarray(ours).astype(int) - theirs)
        assert np.median(difference) <= _COLOUR_TOLERANCE


def test_a_video_says_which_colours_it_means_and_can_be_played_as_it_arrives(
    frames: list[Image.Image],
) -> None:
    data = encode_media(frames, MediaFormat.MP4, 24)
    assert data.find(b"moov") < data.find(b"mdat")
    with av.open(io.BytesIO(data)) as video:
        context = video.streams.video[0].codec_context
        bt709, limited = 1, 1
        assert (context.colorspace, context.color_primaries) == (bt709, bt709)
        assert (context.color_trc, context.color_range) == (bt709, limited)
        assert "encoder" not in video.metadata


def test_equal_frames_give_an_equal_video_whatever_memory_held_before(
    frames: list[Image.Image],
) -> None:
    first = encode_media(frames, MediaFormat.MP4, 16)
    for round_ in range(20):
        # Blocks of many sizes full of something, for the encoder to find them.
        left_behind = [bytes([round_ + 1]) * size for size in range(500, 200_000, 5_000)]
        del left_behind
        assert encode_media(frames, MediaFormat.MP4, 16) == first
    assert encode_media(frames, MediaFormat.MP4, 17) != first


@pytest.mark.parametrize(
    ("count", "media_format", "rate"),
    [(2, MediaFormat.PNG, None), (2, MediaFormat.MP4, None), (1, MediaFormat.MP4, None)],
)
def test_a_format_that_cannot_hold_what_was_drawn_is_refused(
    picture: Image.Image, count: int, media_format: MediaFormat, rate: int | None
) -> None:
    with pytest.raises(Unsupported, match=f"media_format: is {media_format}, which cannot hold"):
        encode_media([picture] * count, media_format, rate)


@pytest.mark.parametrize("media_format", [MediaFormat.JPEG, MediaFormat.WEBP])
def test_a_lower_quality_makes_a_smaller_file_of_the_same_picture(
    picture: Image.Image, media_format: MediaFormat
) -> None:
    sizes = []
    for quality in (10, 90):
        output = OutputOptions(quality=quality)
        data = encode_media([picture], media_format, None, output)
        assert data == encode_media([picture], media_format, None, output)
        opened = Image.open(io.BytesIO(data))
        assert (opened.format, opened.mode, opened.size) == (media_format.name, "RGB", picture.size)
        sizes.append(len(data))
    assert sizes[0] < sizes[1]


def test_every_compression_level_of_a_png_keeps_every_pixel(picture: Image.Image) -> None:
    fast, small = (
        encode_media([picture], MediaFormat.PNG, None, OutputOptions(compression_level=level))
        for level in (0, 9)
    )
    assert len(small) < len(fast)
    for data in (fast, small):
        assert Image.open(io.BytesIO(data)).tobytes() == picture.tobytes()
