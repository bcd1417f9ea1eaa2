"""A scripted gateway that keeps one job, and loses connections and answers as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import count

import grpc
import grpc.aio

from tests.integration.scripted_cluster import (
    JOB_ID,
    PICTURE,
    Broken,
    ScriptedGateway,
    artifact,
    break_off,
    completed,
    parameters,
    refuse,
    successful_run,
)
from triptych.v1 import generation_service_pb2 as messages
from triptych.v1 import job_pb2

Context = grpc.aio.ServicerContext
Fault = Callable[[Context], object]


def numbered(responses: Iterator[messages.GenerateResponse]) -> list[job_pb2.JobEvent]:
    """The events among them, with sequence numbers."""
    events = [response.event for response in responses if response.HasField("event")]
    for event, sequence in zip(events, count(1), strict=False):
        event.sequence = sequence
    return events


def chunks_of(data: bytes) -> Callable[[int], Iterator[messages.ArtifactChunk]]:
    """Gives an artifact from an offset on, in pieces of 1000 bytes."""

    def chunks(offset: int) -> Iterator[messages.ArtifactChunk]:
        yield messages.ArtifactChunk(artifact=artifact(data), offset_bytes=offset)
        for begin in range(offset, len(data), 1000):
            yield messages.ArtifactChunk(offset_bytes=begin, data=data[begin : begin + 1000])

    return chunks


class ScriptedJobs(ScriptedGateway):
    """Keeps the job JOB_ID, whose events are given.

    Args:
        events: of the job; by default of one that succeeds.
        breaks: after which event's number the first stream breaks, the second one, and so on; those
            after them do not.
        endless: whether streams stay open after the last event.
        faults: what becomes of the first answer to each other call, the second one, and so on.
    """

    def __init__(
        self,
        events: Sequence[job_pb2.JobEvent] | None = None,
        *,
        breaks: Sequence[int] = (),
        endless: bool = False,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(self._generate)
        self.events = numbered(successful_run()) if events is None else list(events)
        self.artifacts[JOB_ID] = chunks_of(PICTURE)
        self._breaks = list(breaks)
        self._endless = endless
        self._faults = list(faults)
        self.watched_after: list[int] = []
        self.submissions: list[messages.SubmitJobRequest] = []
        self.lists: list[messages.ListJobsRequest] = []
        self.pages: list[messages.ListJobsResponse] = []
        self.calls = 0
        self.job_cancelled = asyncio.Event()
        self.all_told = asyncio.Event()

    async def SubmitJob(  # noqa: N802
        self, request: messages.SubmitJobRequest, context: Context
    ) -> messages.SubmitJobResponse:
        known = {each.client_request_id: each for each in self.submissions}
        self.submissions.append(request)
        earlier = known.get(request.client_request_id, request)
        if earlier.parameters != request.parameters:
            message = f"client_request_id: {request.client_request_id!r} came before"
            code = grpc.StatusCode.ALREADY_EXISTS
            await refuse(context, code, "REQUEST_ID_REUSED", message)
        await self._may_fail(context)
        return messages.SubmitJobResponse(job=self.job(job_pb2.JOB_STATE_QUEUED))

    async def GetJob(  # noqa: N802
        self, request: messages.GetJobRequest, context: Context
    ) -> messages.GetJobResponse:
        await self._may_fail(context)
        await self._check(request.job_id, context)
        return messages.GetJobResponse(job=self.job())

    async def CancelJob(  # noqa: N802
        self, request: messages.CancelJobRequest, context: Context
    ) -> messages.CancelJobResponse:
        await self._may_fail(context)
        await self._check(request.job_id, context)
        self.job_cancelled.set()
        return messages.CancelJobResponse(job=self.job(job_pb2.JOB_STATE_CANCELLED))

    async def ListJobs(  # noqa: N802
        self, request: messages.ListJobsRequest, context: Context
    ) -> messages.ListJobsResponse:
        self.lists.append(request)
        await self._may_fail(context)
        return self.pages[int(request.page_token or 0)]

    async def WatchJob(  # noqa: N802
        self, request: messages.WatchJobRequest, context: Context
    ) -> AsyncIterator[messages.WatchJobResponse]:
        self.watched_after.append(request.after_sequence)
        await self._check(request.job_id, context)
        try:
            async for event in self._stream(request.after_sequence):
                yield messages.WatchJobResponse(event=event)
        except Broken:
            await break_off(context)

    def job(self, state: job_pb2.JobState = job_pb2.JOB_STATE_SUCCEEDED) -> job_pb2.Job:
        """The job as it is told."""
        job = job_pb2.Job(
            job_id=JOB_ID,
            state=state,
            parameters=parameters(3, 7),
            scheduling=job_pb2.SchedulingOptions(priority=job_pb2.PRIORITY_STANDARD),
            completed_steps=3,
            total_steps=3,
            last_sequence=len(self.events),
        )
        job.create_time.FromSeconds(1_800_000_000)
        if state == job_pb2.JOB_STATE_SUCCEEDED:
            job.result.CopyFrom(completed().event.completed.result)
        return job

    async def _generate(
        self, request: messages.GenerateRequest, context: Context
    ) -> AsyncIterator[messages.GenerateResponse]:
        async for event in self._stream(0):
            if event.HasField("completed"):
                for chunk in chunks_of(PICTURE)(0):
                    yield messages.GenerateResponse(artifact_chunk=chunk)
            yield messages.GenerateResponse(event=event)

    async def _stream(self, after_sequence: int) -> AsyncIterator[job_pb2.JobEvent]:
        last = self._breaks.pop(0) if self._breaks else None
        for event in self.events[after_sequence:]:
            yield event
            if event.sequence == last:
                raise Broken
        self.all_told.set()
        if self._endless:
            await asyncio.Event().wait()

    async def _check(self, job_id: str, context: Context) -> None:
        if job_id != JOB_ID:
            message = f"job_id: there is no job {job_id!r}"
            await refuse(context, grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", message)

    async def _may_fail(self, context: Context) -> None:
        self.calls += 1
        if self._faults:
            await self._faults.pop(0)(context)
