"""Both clients behind one face, and what a scripted gateway may do to them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, closing
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from tests.integration.scripted_cluster import (
    Script,
    ScriptedGateway,
    event,
    refuse,
)
from triptych import (
    AsyncClient,
    Client,
    Download,
    Event,
    Generation,
    ModelInfo,
    UploadedImage,
)
from triptych.v1 import generation_service_pb2 as messages
from triptych.v1 import job_pb2


class BlockingFlavour:
    """Runs the blocking client beside the event loop."""

    async def returned(self, target: str, method: str, *given: object, **options: object) -> Any:
        def call() -> Any:
            with Client(target) as client:
                return getattr(client, method)(*given, **options)

        return await asyncio.to_thread(call)

    async def emitted(
        self, target: str, method: str, *given: object, **options: object
    ) -> list[Any]:
        def call() -> list[Any]:
            with Client(target) as client:
                return list(getattr(client, method)(*given, **options))

        return await asyncio.to_thread(call)

    async def leave_after(self, target: str, number: int, method: str, *given: object) -> None:
        def call() -> None:
            with Client(target) as client, closing(getattr(client, method)(*given)) as emitted:
                for _ in range(number):
                    next(emitted)

        await asyncio.to_thread(call)

    async def events(self, target: str, **options: object) -> list[Event]:
        def collect() -> list[Event]:
            with Client(target) as client:
                return list(client.stream("a red circle", **options))

        return await asyncio.to_thread(collect)

    async def generate(self, target: str, **options: object) -> Generation:
        def generate() -> Generation:
            with Client(target) as client:
                return client.generate("a red circle", **options)

        return await asyncio.to_thread(generate)

    async def leave(self, target: str, left: Callable[[], Awaitable[None]]) -> None:
        def leave(client: Client) -> None:
            with closing(client.stream("a red circle")) as events:
                next(events)

        # The connection stays open, so that only leaving the stream can end the job.
        with Client(target) as client:
            await asyncio.to_thread(leave, client)
            await left()

    async def upload(self, target: str, image: object) -> UploadedImage:
        def upload() -> UploadedImage:
            with Client(target) as client:
                return client.upload_image(image)

        return await asyncio.to_thread(upload)

    async def download(self, target: str, artifact_id: str, **options: object) -> Download:
        def download() -> Download:
            with Client(target) as client:
                return client.download(artifact_id, **options)

        return await asyncio.to_thread(download)

    async def model(self, target: str, name: str) -> tuple[list[ModelInfo], ModelInfo]:
        def model() -> tuple[list[ModelInfo], ModelInfo]:
            with Client(target) as client:
                return client.models(), client.model(name)

        return await asyncio.to_thread(model)


class AsyncioFlavour:
    """Runs the asyncio client."""

    async def returned(self, target: str, method: str, *given: object, **options: object) -> Any:
        async with AsyncClient(target) as client:
            return await getattr(client, method)(*given, **options)

    async def emitted(
        self, target: str, method: str, *given: object, **options: object
    ) -> list[Any]:
        async with AsyncClient(target) as client:
            return [value async for value in getattr(client, method)(*given, **options)]

    async def leave_after(self, target: str, number: int, method: str, *given: object) -> None:
        async with (
            AsyncClient(target) as client,
            aclosing(getattr(client, method)(*given)) as emitted,
        ):
            for _ in range(number):
                await anext(emitted)

    async def events(self, target: str, **options: object) -> list[Event]:
        async with AsyncClient(target) as client:
            return [each async for each in client.stream("a red circle", **options)]

    async def generate(self, target: str, **options: object) -> Generation:
        async with AsyncClient(target) as client:
            return await client.generate("a red circle", **options)

    async def leave(self, target: str, left: Callable[[], Awaitable[None]]) -> None:
        async with AsyncClient(target) as client:
            async with aclosing(client.stream("a red circle")) as events:
                await anext(events)
            await left()

    async def upload(self, target: str, image: object) -> UploadedImage:
        async with AsyncClient(target) as client:
            return await client.upload_image(image)

    async def download(self, target: str, artifact_id: str, **options: object) -> Download:
        async with AsyncClient(target) as client:
            return await client.download(artifact_id, **options)

    async def model(self, target: str, name: str) -> tuple[list[ModelInfo], ModelInfo]:
        async with AsyncClient(target) as client:
            return await client.models(), await client.model(name)


Context = grpc.aio.ServicerContext
Request = messages.GenerateRequest
Response = messages.GenerateResponse
Flavour = BlockingFlavour | AsyncioFlavour
FLAVOURS = (BlockingFlavour, AsyncioFlavour)


async def was_cancelled(gateway: ScriptedGateway) -> None:
    await asyncio.wait_for(gateway.cancelled.wait(), 10)


def playing(*responses: messages.GenerateResponse) -> Script:
    """Sends these messages and ends the stream."""

    async def script(request: Request, context: Context) -> AsyncIterator[Response]:
        for response in responses:
            yield response

    return script


def refusing(code: grpc.StatusCode, reason: str, message: str, *details: Message) -> Script:
    """Refuses every request."""

    async def script(request: Request, context: Context) -> AsyncIterator[Response]:
        await refuse(context, code, reason, message, *details)
        yield messages.GenerateResponse()

    return script


async def never_ending(request: Request, context: Context) -> AsyncIterator[Response]:
    """Accepts the request and is not heard of again."""
    yield event(accepted=job_pb2.JobAccepted())
    await asyncio.Event().wait()
