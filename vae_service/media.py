"""Pictures to files. Equal pixels give equal bytes, and no file tells when or where it was made."""

import io
import tempfile
import zipfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from PIL import Image

from triptych.domain.errors import Unsupported
from triptych.domain.model import MediaFormat
from triptych.domain.output_options import OutputOptions, effective_output

# Of the pictures in an archive.
_PNG_COMPRESS_LEVEL = 3
# x264's own scale: visually lossless, yet a fraction of what frames take as PNG.
_CRF = "17"
_X264: dict[str, object] = {
    "crf": _CRF,
    "preset": "medium",
    "flags": "+bitexact",
    # Another number of threads would give other bytes.
    "threads": "1",
    # So would x264's look-ahead in AVX-512, which reads beyond a row of macroblocks and so depends
    # on whatever lies there; this takes the same look-ahead on every processor.
    "x264-params": "cpu-independent=1",
}
# What a ZIP says of a file whose date nobody knows.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def encode_media(
    pictures: Sequence[Image.Image],
    media_format: MediaFormat,
    frames_per_second: int | None,
    output: OutputOptions | None = None,
) -> bytes:
    """Compresses a picture, the layers of one, or the frames of a video.

    Args:
        pictures: in their order, all of one size.
        media_format: how.
        frames_per_second: for a video; None for anything else.
        output: how a single picture is compressed; None for the defaults.

    Raises:
        Unsupported: the format does not hold such pictures.
    """
    match media_format:
        case MediaFormat.PNG | MediaFormat.JPEG | MediaFormat.WEBP if len(pictures) == 1:
            return _picture(pictures[0], media_format, output)
        case MediaFormat.PNG_ARCHIVE:
            return _png_archive(pictures)
        case MediaFormat.MP4 if frames_per_second is not None:
            return _mp4(pictures, frames_per_second)
    raise Unsupported(f"media_format: is {media_format}, which cannot hold what was drawn")


def _picture(picture: Image.Image, media_format: MediaFormat, asked: OutputOptions | None) -> bytes:
    output = effective_output(asked, media_format)
    assert output is not None
    if media_format is MediaFormat.PNG:
        return _png(picture, output.compression_level)
    stream = io.BytesIO()
    # Of JPEG, colours at the resolution of the picture. Other encoders have no use for it.
    picture.save(stream, media_format.name, quality=output.quality, subsampling=0)
    return stream.getvalue()


def _png(picture: Image.Image, level: int | None = _PNG_COMPRESS_LEVEL) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=level, optimize=False)
    return stream.getvalue()


def _png_archive(pictures: Sequence[Image.Image]) -> bytes:
    """A ZIP of 0000.png, 0001.png and so on, which PNG has compressed already."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for number, picture in enumerate(pictures):
            archive.writestr(zipfile.ZipInfo(f"{number:04}.png", _NO_DATE), _png(picture))
    return stream.getvalue()


def _mp4(frames: Sequence[Image.Image], frames_per_second: int) -> bytes:
    """H.264 in the form that every browser and player takes: 8 bits, 4:2:0, BT.709."""
    # The index first, so that playing can begin before the last byte is there; to put it there, the
    # muxer must read again what it wrote, which it cannot do in memory.
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "video.mp4"
        with av.open(file, "w", options=options) as container:
            stream = container.add_stream("libx264", Fraction(frames_per_second))
            stream.width, stream.height = frames[0].size
            stream.pix_fmt = "yuv420p"
            stream.options = _X264
            _tag_colours(stream.codec_context)
            for frame in frames:
                container.mux(stream.encode(_yuv(frame)))
            container.mux(stream.encode(None))
        return file.read_bytes()


def _tag_colours(context: av.VideoCodecContext) -> None:
    # Untagged, players guess the matrix from the size, and colours differ between them.
    context.colorspace = Colorspace.ITU709
    context.color_range = ColorRange.MPEG
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709


def _yuv(picture: Image.Image) -> av.VideoFrame:
    rgb = av.VideoFrame.from_ndarray(np.asarray(picture.convert("RGB")), format="rgb24")
    return rgb.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC,
    )
