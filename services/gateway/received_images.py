"""The input images of a request, whichever way they came."""

import asyncio
from dataclasses import dataclass

from services.gateway.uploads import Uploads
from services.pictures.input_picture import describe_picture
from triptych.domain.errors import InvalidRequest
from triptych.domain.input_image import ImageDescription
from triptych.v1 import generation_pb2

MAX_IMAGES = 16
"""More than any model takes; a message has room for thousands, whose headers take a while."""


@dataclass(frozen=True, slots=True)
class ReceivedImage:
    """An encoded picture and what its header says."""

    data: bytes
    described: ImageDescription


async def receive_images(
    message: generation_pb2.GenerationParameters, uploads: Uploads, tenant: str
) -> list[ReceivedImage]:
    """A request's images in its order, their headers checked.

    Raises:
        InvalidRequest: one is no picture, is too large, or names an upload that is not here; or
            there are more than any model takes.
    """
    if (given := len(message.images)) > MAX_IMAGES:
        raise InvalidRequest.of("images", f"are {given}; allowed are at most {MAX_IMAGES}")
    return [
        await _receive(f"images[{number}]", each, uploads, tenant)
        for number, each in enumerate(message.images)
    ]


async def _receive(
    field: str, message: generation_pb2.InputImage, uploads: Uploads, tenant: str
) -> ReceivedImage:
    match message.WhichOneof("source"):
        case "data":
            # In a thread: a crafted header takes seconds, in which others must be served.
            described = await asyncio.to_thread(describe_picture, field, message.data)
            return ReceivedImage(message.data, described)
        case "upload_id":
            upload = await uploads.find(tenant, f"{field}.upload_id", message.upload_id)
            return ReceivedImage(upload.data, upload.described)
    raise InvalidRequest.of(field, "is empty; give its data or its upload_id")
