"""The input images of a request, whichever way they came."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.gateway.byte_room import ByteRoom
from services.gateway.uploads import Uploads
from services.pictures.input_picture import describe_picture
from services.rpc.stage_host import MAX_STAGE_MESSAGE_BYTES
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest
from triptych.domain.input_image import ImageDescription
from triptych.v1 import generation_pb2

MAX_IMAGES = 16
"""More than any model takes; a message has room for thousands, whose headers take a while."""

MAX_TOGETHER_BYTES: Final = MAX_STAGE_MESSAGE_BYTES - (1 << 20)
"""What a message to a stage has room for beside the rest of a request."""


@dataclass(frozen=True, slots=True)
class ReceivedImage:
    """An encoded picture: what its header says, and where its bytes are.

    Attributes:
        load: gets the bytes, without holding up the event loop; may raise InvalidRequest if an
            upload has expired since, and Unavailable if the artifact store cannot be reached.
    """

    described: ImageDescription
    load: Callable[[], Awaitable[bytes]]


async def receive_images(
    message: generation_pb2.GenerationParameters, uploads: Uploads, tenant: str
) -> list[ReceivedImage]:
    """A request's images in its order, their headers checked.

    Raises:
        InvalidRequest: one is no picture, is too large, or names an upload that is not here; or
            there are more than any model takes, or they are larger together than a stage takes.
        Unavailable: the artifact store cannot be reached.
    """
    if (given := len(message.images)) > MAX_IMAGES:
        raise InvalidRequest.of("images", f"are {given}; allowed are at most {MAX_IMAGES}")
    received = [
        await _receive(f"images[{number}]", image, uploads, tenant)
        for number, image in enumerate(message.images)
    ]
    together = sum(image.described.size_bytes for image in received)
    if together > MAX_TOGETHER_BYTES:
        raise InvalidRequest.of(
            "images", f"have {together} bytes; allowed are at most {MAX_TOGETHER_BYTES} together"
        )
    return received


@asynccontextmanager
async def loaded(
    images: Sequence[ReceivedImage], room: ByteRoom, deadline: Deadline
) -> AsyncGenerator[tuple[bytes, ...], None]:
    """The bytes of pictures, while there is room for them.

    Raises:
        DeadlineExceeded: there was no room in time.
        InvalidRequest, Unavailable: see ReceivedImage.load.
    """
    if not images:
        yield ()
        return
    size_bytes = sum(image.described.size_bytes for image in images)
    async with room.waited_for(size_bytes, deadline):
        yield tuple([await image.load() for image in images])


async def _receive(
    field: str, message: generation_pb2.InputImage, uploads: Uploads, tenant: str
) -> ReceivedImage:
    match message.WhichOneof("source"):
        case "data":
            # In a thread: a crafted header takes seconds, in which others must be served.
            described = await asyncio.to_thread(lambda: describe_picture(field, message.data))
            # The message has them as long as its call lasts: a copy is made when it is needed.
            return ReceivedImage(described, partial(asyncio.to_thread, lambda: message.data))
        case "upload_id":
            named = f"{field}.upload_id"
            described = await uploads.described(tenant, named, message.upload_id)
            return ReceivedImage(described, partial(uploads.load, tenant, named, message.upload_id))
    raise InvalidRequest.of(field, "is empty; give its data or its upload_id")
