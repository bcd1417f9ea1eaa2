"""Carries out a client's steps from an event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any, TypeVar, assert_never

import grpc
import grpc.aio

from triptych.blocking_transport import BlockingTransport
from triptych.channel import channel_options
from triptych.errors import TriptychError
from triptych.status import call_error
from triptych.steps import (
    Call,
    Done,
    Emit,
    OnLeave,
    Open,
    Pause,
    Performed,
    Receive,
    SendImage,
    Steps,
    Work,
    next_step,
    single,
)
from triptych.v1.generation_service_pb2_grpc import GenerationServiceStub

R = TypeVar("R")


class AsyncioTransport:
    """One connection, for one event loop.

    Args:
        target: host:port, or unix:/path.
        credentials: for TLS; None for a plain connection.
        metadata: sent with every call.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._metadata = metadata
        self._channel = (
            grpc.aio.insecure_channel(target, channel_options(target))
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, channel_options(target))
        )
        self._stub = GenerationServiceStub(self._channel)

    async def close(self) -> None:
        """Ends the connection, and what runs on it."""
        await self._channel.close()

    async def returned(self, steps: Steps[R]) -> R:
        """Carries out steps that emit nothing; gives what they return."""
        outcome: object = None
        async with self._performer(steps) as performer:
            while not isinstance(step := next_step(steps, outcome), Done):
                assert not isinstance(step, Emit)
                outcome = await performer.perform(step)
        return step.value

    async def emitted(self, steps: Steps[None]) -> AsyncGenerator[Any, None]:
        """Carries out the steps; gives what they emit. Closing it ends the stream that is open."""
        outcome: object = None
        async with self._performer(steps) as performer:
            while not isinstance(step := next_step(steps, outcome), Done):
                if isinstance(step, Emit):
                    yield step.value
                    outcome = None
                else:
                    outcome = await performer.perform(step)

    @asynccontextmanager
    async def _performer(self, steps: Steps[R]) -> AsyncIterator["_Performer"]:
        performer = _Performer(self._stub, self._blocking, self._target, self._metadata)
        try:
            with closing(steps):
                yield performer
        finally:
            await performer.leave()

    def _blocking(self) -> BlockingTransport:
        return BlockingTransport(self._target, self._credentials, self._metadata)


class _Performer:
    """Holds the stream that is open, and what is called when the steps end."""

    def __init__(
        self,
        stub: GenerationServiceStub,
        blocking: Callable[[], BlockingTransport],
        target: str,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        self._stub = stub
        self._blocking = blocking
        self._target = target
        self._metadata = metadata
        self._stream: Any = None
        self._on_leave: OnLeave | None = None

    async def perform(self, step: Performed) -> object:
        """What came of a step, or the TriptychError that it ended with."""
        try:
            return await self._perform(step)
        except grpc.RpcError as error:
            return call_error(error, self._target)
        except TriptychError as error:
            return error

    async def leave(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        if self._on_leave is not None and (last := self._on_leave.call()) is not None:
            await self.perform(last)

    async def _perform(self, step: Performed) -> object:
        match step:
            case Call():
                return await self._called(step)
            case SendImage():
                # Not by grpc.aio, which loses the status of a call that is refused while it is
                # written.
                with closing(self._blocking()) as blocking:
                    return await asyncio.to_thread(blocking.returned, single(step))
            case Open():
                self._stream = self._called(step)
            case Receive():
                message = await self._stream.read()
                return None if message is grpc.aio.EOF else message
            case Pause():
                await asyncio.sleep(step.seconds)
            case Work():
                return await asyncio.to_thread(step.function)
            case OnLeave():
                self._on_leave = step
            case _:
                assert_never(step)
        return None

    def _called(self, step: Call | Open) -> Any:  # noqa: ANN401 - the stub's call
        call = getattr(self._stub, step.method)
        return call(step.request, timeout=step.seconds, metadata=self._metadata)
