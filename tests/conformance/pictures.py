"""Pictures that requests of the conformance suite carry, the same in every run."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from services.pictures.input_picture import decode_picture, describe_picture
from triptych.domain.generation import GenerationParameters
from triptych.domain.input_image import ImageDescription

# Width, height and mode: upright, lying, and with transparent parts.
_KINDS = ((120, 72, "RGB"), (64, 96, "RGBA"), (88, 88, "RGB"))


def _drawn() -> Iterator[bytes]:
    for number, (width, height, mode) in enumerate(_KINDS):
        across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        noise = np.random.default_rng(number).integers(0, 255, (height, width))
        channels = [across, down, noise, 255 - across]
        pixels = np.stack(channels[: len(mode)], axis=-1).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels, mode).save(stream, "PNG")
        yield stream.getvalue()


ENCODED = tuple(_drawn())
DESCRIBED = tuple(describe_picture("images", data) for data in ENCODED)
_BY_CHECKSUM = {each.checksum_xxh3: data for each, data in zip(DESCRIBED, ENCODED, strict=True)}


def described(which: int | Sequence[int]) -> tuple[ImageDescription, ...]:
    """What the headers say of the first so many pictures, or of those with certain numbers."""
    numbers = range(which) if isinstance(which, int) else which
    return tuple(DESCRIBED[number] for number in numbers)


def encoded_of(parameters: GenerationParameters) -> tuple[bytes, ...]:
    """The bytes of a request's pictures."""
    return tuple(_BY_CHECKSUM[each.checksum_xxh3] for each in parameters.images)


def pictures_of(parameters: GenerationParameters) -> list[Image.Image]:
    """A request's pictures, the right way up, as their files have them."""
    return [decode_picture("images", data) for data in encoded_of(parameters)]
