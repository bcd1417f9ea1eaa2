"""A client that follows one job to its end, at whichever gateway answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc

from tests.faults.orders import Order
from triptych.v1 import generation_service_pb2 as pb2
from triptych.v1 import generation_service_pb2_grpc, job_pb2

T = TypeVar("T")

_ANSWER_SECONDS: Final = 5.0
_WATCH_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 0.1
_PASSING: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""What another gateway, or the same one later, may answer otherwise."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What a client saw of a job.

    Attributes:
        events: all of them, in order.
        artifacts: their bytes, in order.
    """

    job_id: str
    events: tuple[job_pb2.JobEvent, ...]
    artifacts: tuple[bytes, ...]


class Follower:
    """Asks one gateway after the other.

    Args:
        channels: to all gateways.
        seed: of the choice between them.
    """

    def __init__(self, channels: Sequence[grpc.aio.Channel], seed: int) -> None:
        self._stubs: list[Any] = [
            generation_service_pb2_grpc.GenerationServiceStub(channel) for channel in channels
        ]
        self._chance = random.Random(seed)

    async def follow(self, order: Order, name: str) -> Followed:
        """Hands an order in, follows it, and fetches what came of it.

        Raises:
            AssertionError: the job failed, or its events have a gap.
        """
        request = pb2.SubmitJobRequest(client_request_id=name, parameters=order.message)
        submitted = await self._asked(lambda stub: stub.SubmitJob(request, timeout=_ANSWER_SECONDS))
        job_id: str = submitted.job.job_id
        events = await self._watched(job_id)
        last = events[-1]
        assert last.HasField("completed"), f"{order.name} ended with {last}"
        artifacts = [
            await self._fetched(artifact.artifact_id)
            for artifact in last.completed.result.artifacts
        ]
        return Followed(job_id, tuple(events), tuple(artifacts))

    async def _watched(self, job_id: str) -> list[job_pb2.JobEvent]:
        events: list[job_pb2.JobEvent] = []

        async def watch(stub: Any) -> None:
            request = pb2.WatchJobRequest(job_id=job_id, after_sequence=len(events))
            async for answer in stub.WatchJob(request, timeout=_WATCH_SECONDS):
                assert answer.event.sequence == len(events) + 1, "a gap, or a repetition"
                events.append(answer.event)

        await self._asked(watch)
        return events

    async def _fetched(self, artifact_id: str) -> bytes:
        data = bytearray()

        async def download(stub: Any) -> None:
            request = pb2.DownloadArtifactRequest(artifact_id=artifact_id, offset_bytes=len(data))
            async for answer in stub.DownloadArtifact(request, timeout=_ANSWER_SECONDS):
                data.extend(answer.chunk.data)

        await self._asked(download)
        return bytes(data)

    async def _asked(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask(self._chance.choice(self._stubs))
            except grpc.aio.AioRpcError as error:
                if error.code() not in _PASSING:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)
