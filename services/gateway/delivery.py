"""One job's events and artifacts as one stream."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from services.domain.job_event import ArtifactChunk
from services.gateway.results import Results
from services.jobs.ledger import JobLedger
from services.jobs.record import JobKey
from services.observability.logs import get_logger
from services.rpc.status import remote_failure
from services.rpc.stored import event_message
from services.rpc.tables import ARTIFACT_CHUNKS
from triptych.codec.tables import FAILURES, RESULTS
from triptych.domain.errors import Cancelled, LedgerUnavailable
from triptych.v1 import generation_service_pb2 as pb2
from triptych.v1 import job_pb2

_PATIENCE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.5
_AHEAD: Final = 16
"""Messages that wait for a reader who is slower than the job."""

_Message = job_pb2.JobEvent | pb2.ArtifactChunk | Exception | None
"""None after the last one."""

_log = get_logger(__name__)


async def watched(
    ledger: JobLedger, key: JobKey, after_sequence: int = 0
) -> AsyncGenerator[job_pb2.JobEvent, None]:
    """Yields a job's events after a sequence number, to its end; waits for a ledger that is away.

    Raises:
        JobNotFound, JobExpired, EventsExpired, InvalidRequest: see JobLedger.watch.
        LedgerUnavailable: the ledger was away for a minute.
    """
    loop = asyncio.get_running_loop()
    last, heard = after_sequence, loop.time()
    while True:
        try:
            async with aclosing(ledger.watch(key, last)) as events:
                async for event in events:
                    last, heard = event.sequence, loop.time()
                    yield event_message(key.job_id, event.sequence, event.time, event.data)
        except LedgerUnavailable as error:
            if loop.time() - heard > _PATIENCE_SECONDS:
                raise
            _log.warning("events are waited for", cause=str(error))
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return


class Delivery:
    """A job's events as they come, its artifacts' bytes before the last one.

    Args:
        ledger: where the events are.
        results: where the artifacts are.
        key: of a job.
        leave: told that the stream was left before the job had ended.
    """

    def __init__(
        self,
        ledger: JobLedger,
        results: Results,
        key: JobKey,
        leave: Callable[[JobKey], None],
    ) -> None:
        self._ledger = ledger
        self._results = results
        self._key = key
        self._leave = leave
        self._messages: asyncio.Queue[_Message] = asyncio.Queue(_AHEAD)

    async def messages(self) -> AsyncGenerator[pb2.GenerateResponse, None]:
        """Yields them; ends after the event that the job succeeded.

        Raises:
            TriptychError: the job failed, or was cancelled, or cannot be watched any longer.
        """
        with self._results.awaited(self._key.job_id, self._take):
            watching, ended = asyncio.create_task(self._watch()), False
            try:
                while (message := await self._messages.get()) is not None:
                    if isinstance(message, Exception):
                        raise message
                    if isinstance(message, pb2.ArtifactChunk):
                        yield pb2.GenerateResponse(artifact_chunk=message)
                        continue
                    ended = _has_ended(message)
                    _check(message)
                    if message.HasField("completed"):
                        async with aclosing(self._kept(message.completed)) as chunks:
                            async for chunk in chunks:
                                yield pb2.GenerateResponse(artifact_chunk=chunk)
                    yield pb2.GenerateResponse(event=message)
            finally:
                if not ended:
                    self._leave(self._key)
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _take(self, chunk: ArtifactChunk) -> None:
        await self._messages.put(ARTIFACT_CHUNKS.write(chunk))

    async def _watch(self) -> None:
        ended: Exception | None = None
        try:
            async with aclosing(watched(self._ledger, self._key)) as events:
                async for event in events:
                    await self._messages.put(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader raises it
            ended = error
        await self._messages.put(ended)

    async def _kept(
        self, completed: job_pb2.JobCompleted
    ) -> AsyncGenerator[pb2.ArtifactChunk, None]:
        for artifact in RESULTS.read(completed.result, strict=False).artifacts:
            if artifact.expire_time is None:
                # It came before, from the stage that made it.
                continue
            chunks = self._results.read(self._key.tenant, artifact.artifact_id, 0)
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield ARTIFACT_CHUNKS.write(chunk)


def _has_ended(event: job_pb2.JobEvent) -> bool:
    return event.WhichOneof("event") in ("completed", "failed", "cancelled")


def _check(event: job_pb2.JobEvent) -> None:
    """Raises what a job ended with, unless it succeeded."""
    if event.HasField("failed"):
        raise remote_failure(FAILURES.read(event.failed, strict=False))
    if event.HasField("cancelled"):
        raise Cancelled("the job was cancelled")
