"""Input images on the wire: their bytes, and what is known of them without."""

from collections.abc import Sequence

from triptych.domain.errors import InvalidRequest
from triptych.domain.input_image import InputImage
from triptych.v1 import generation_pb2


def write_images(
    images: Sequence[InputImage],
    message: generation_pb2.GenerationParameters,
    data: Sequence[bytes] = (),
) -> None:
    """Describes a message's images.

    Args:
        images: what is known of them.
        message: gets one entry each.
        data: their encoded bytes, where whoever reads the message needs them.
    """
    for number, image in enumerate(images):
        description = generation_pb2.ImageDescription(
            width=image.width,
            height=image.height,
            size_bytes=image.size_bytes,
            checksum_xxh3=image.checksum_xxh3,
        )
        message.images.add(description=description, data=data[number] if data else None)


def images_from_proto(message: generation_pb2.GenerationParameters) -> tuple[InputImage, ...]:
    """What effective values say of their images."""
    return tuple(
        InputImage(
            width=each.description.width,
            height=each.description.height,
            size_bytes=each.description.size_bytes,
            checksum_xxh3=each.description.checksum_xxh3,
        )
        for each in message.images
    )


def image_data(message: generation_pb2.GenerationParameters) -> tuple[bytes, ...]:
    """The bytes of effective values' images.

    Raises:
        InvalidRequest: one has none.
    """
    for number, image in enumerate(message.images):
        if image.WhichOneof("source") != "data":
            raise InvalidRequest.of(f"images[{number}].data", "is missing")
    return tuple(each.data for each in message.images)
