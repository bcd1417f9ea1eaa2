"""What a client asks, read; and effective values with the bytes of their pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from triptych.codec.tables import REQUESTS
from triptych.domain.errors import FieldViolation, InvalidRequest
from triptych.domain.generation import GenerationRequest
from triptych.domain.input_image import ImageDescription
from triptych.v1 import generation_pb2


def read_request(
    message: generation_pb2.GenerationParameters,
    images: Sequence[ImageDescription] = (),
) -> GenerationRequest:
    """What the client asked.

    Args:
        message: what came.
        images: what the headers of the message's images say.

    Raises:
        InvalidRequest: an enum is unknown, or a field is set that no served model honours.
    """
    if violations := list(_unsupported(message)):
        raise InvalidRequest(violations)
    return replace(REQUESTS.read(message), images=tuple(images))


def attach_images(message: generation_pb2.GenerationParameters, data: Sequence[bytes]) -> None:
    """Adds the bytes of effective values' images, for those who read them."""
    for image, encoded in zip(message.images, data, strict=True):
        image.data = encoded


def image_data(message: generation_pb2.GenerationParameters) -> tuple[bytes, ...]:
    """The bytes of effective values' images.

    Raises:
        InvalidRequest: one has none.
    """
    for number, image in enumerate(message.images):
        if image.WhichOneof("source") != "data":
            raise InvalidRequest.of(f"images[{number}].data", "is missing")
    return tuple(image.data for image in message.images)


def _unsupported(message: generation_pb2.GenerationParameters) -> Iterator[FieldViolation]:
    if message.acceleration.replica_class:
        yield FieldViolation("acceleration.replica_class", "must be empty: there is one class")
