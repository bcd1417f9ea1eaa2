"""Pictures as files, sound and crafted."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from PIL import Image

from triptych.domain.errors import InvalidRequest

KINDS = ("PNG", "JPEG", "WEBP")
ORIENTATION = 0x0112

Chunk = tuple[bytes, bytes]
"""Of a PNG file: its kind and what is in it."""


def drawn(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    """Noise, the same every time."""
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 4)).astype(np.uint8)
    picture = Image.fromarray(noise, "RGBA")
    # A palette made of RGBA would have transparent colours.
    return (picture if mode.endswith("A") else picture.convert("RGB")).convert(mode)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A file of that kind."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation: int) -> Image.Exif:
    """Metadata that say which way is up."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def chunks_of(png: bytes) -> Iterator[Chunk]:
    """What a PNG file consists of."""
    position = 8
    while position < len(png):
        length = int.from_bytes(png[position : position + 4])
        yield png[position + 4 : position + 8], png[position + 8 : position + 8 + length]
        position += 12 + length


def png_of(chunks: Iterable[Chunk]) -> bytes:
    """A PNG file whose checksums are right, whatever is in it."""
    written = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def header_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")])


def refusal(read: Callable[[str, bytes], object], data: bytes) -> str:
    """Why a picture is refused, which must be the picture's fault alone."""
    with pytest.raises(InvalidRequest) as caught:
        read("images[0]", data)
    (violation,) = caught.value.violations
    assert violation.field == "images[0]"
    return violation.description
