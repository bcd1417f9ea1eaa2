"""Carries out a client's steps by blocking calls."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar, assert_never

import grpc

from triptych.channel import channel_options
from triptych.errors import TriptychError
from triptych.request_writer import upload_chunks
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
)
from triptych.v1.generation_service_pb2_grpc import GenerationServiceStub

R = TypeVar("R")


class BlockingTransport:
    """One connection; thread-safe.

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
        self._metadata = metadata
        self._channel = (
            grpc.insecure_channel(target, channel_options(target))
            if credentials is None
            else grpc.secure_channel(target, credentials, channel_options(target))
        )
        self._stub = GenerationServiceStub(self._channel)

    def close(self) -> None:
        """Ends the connection, and what runs on it."""
        self._channel.close()

    def returned(self, steps: Steps[R]) -> R:
        """Carries out steps that emit nothing; gives what they return."""
        outcome: object = None
        with self._performer(steps) as performer:
            while not isinstance(step := next_step(steps, outcome), Done):
                assert not isinstance(step, Emit)
                outcome = performer.perform(step)
        return step.value

    def emitted(self, steps: Steps[None]) -> Generator[Any, None, None]:
        """Carries out the steps; gives what they emit. Closing it ends the stream that is open."""
        outcome: object = None
        with self._performer(steps) as performer:
            while not isinstance(step := next_step(steps, outcome), Done):
                if isinstance(step, Emit):
                    yield step.value
                    outcome = None
                else:
                    outcome = performer.perform(step)

    @contextmanager
    def _performer(self, steps: Steps[R]) -> Iterator["_Performer"]:
        performer = _Performer(self._stub, self._target, self._metadata)
        try:
            with closing(steps):
                yield performer
        finally:
            performer.leave()


class _Performer:
    """Holds the stream that is open, and what is called when the steps end."""

    def __init__(
        self, stub: GenerationServiceStub, target: str, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self._stub = stub
        self._target = target
        self._metadata = metadata
        self._stream: Any = None
        self._on_leave: OnLeave | None = None

    def perform(self, step: Performed) -> object:
        """What came of a step, or the TriptychError that it ended with."""
        try:
            return self._perform(step)
        except grpc.RpcError as error:
            return call_error(error, self._target)
        except TriptychError as error:
            return error

    def leave(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        if self._on_leave is not None and (last := self._on_leave.call()) is not None:
            self.perform(last)

    def _perform(self, step: Performed) -> object:
        match step:
            case Call():
                return self._called(step)
            case SendImage():
                chunks = upload_chunks(step.data)
                return self._stub.UploadImage(chunks, timeout=step.seconds, metadata=self._metadata)
            case Open():
                self._stream = self._called(step)
            case Receive():
                return next(self._stream, None)
            case Pause():
                time.sleep(step.seconds)
            case Work():
                return step.function()
            case OnLeave():
                self._on_leave = step
            case _:
                assert_never(step)
        return None

    def _called(self, step: Call | Open) -> Any:  # noqa: ANN401 - the stub's answer
        call = getattr(self._stub, step.method)
        return call(step.request, timeout=step.seconds, metadata=self._metadata)
