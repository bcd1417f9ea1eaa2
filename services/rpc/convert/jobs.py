"""Job events on the wire."""

from functools import singledispatch

from google.protobuf.timestamp_pb2 import Timestamp

from services.domain.job_event import (
    ArtifactChunk,
    JobAccepted,
    JobCompleted,
    JobEvent,
    Preview,
    StageCompleted,
    StageStarted,
)
from services.domain.stages import StepCompleted
from services.rpc.convert.acceleration import statistics_to_proto
from services.rpc.convert.durations import duration_to_proto
from services.rpc.convert.enums import STAGE_TASKS, STAGES
from services.rpc.convert.generation import parameters_to_proto
from services.rpc.convert.parallel import degrees_to_proto
from services.rpc.convert.stages import (
    artifact_to_proto,
    reuse_to_proto,
    step_to_proto,
    timing_to_proto,
)
from triptych.v1 import generation_pb2, generation_service_pb2, job_pb2


class EventWriter:
    """Numbers and dates the events of one job, from 1, without gaps."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._sequence = 0

    def write(self, event: JobEvent) -> generation_service_pb2.GenerateResponse:
        """One message of the Generate stream; artifact bytes are no event and take no number."""
        if isinstance(event, ArtifactChunk):
            return generation_service_pb2.GenerateResponse(artifact_chunk=_chunk_to_proto(event))
        self._sequence += 1
        message = _event_to_proto(event)
        message.job_id = self._job_id
        message.sequence = self._sequence
        now = Timestamp()
        now.GetCurrentTime()
        message.event_time.CopyFrom(now)
        return generation_service_pb2.GenerateResponse(event=message)


def _chunk_to_proto(chunk: ArtifactChunk) -> generation_service_pb2.ArtifactChunk:
    return generation_service_pb2.ArtifactChunk(
        artifact=None if chunk.artifact is None else artifact_to_proto(chunk.artifact),
        offset_bytes=chunk.offset_bytes,
        data=chunk.data,
    )


@singledispatch
def _event_to_proto(event: object) -> job_pb2.JobEvent:
    raise TypeError(f"no wire form for {type(event).__name__}")


@_event_to_proto.register
def _(event: JobAccepted) -> job_pb2.JobEvent:
    accepted = job_pb2.JobAccepted(parameters=parameters_to_proto(event.parameters))
    return job_pb2.JobEvent(accepted=accepted)


@_event_to_proto.register
def _(event: StageStarted) -> job_pb2.JobEvent:
    started = job_pb2.StageStarted(
        stage=STAGES.to_wire(event.stage), task=STAGE_TASKS.to_wire(event.task)
    )
    return job_pb2.JobEvent(stage_started=started)


@_event_to_proto.register
def _(event: StepCompleted) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(step_completed=step_to_proto(event))


@_event_to_proto.register
def _(event: Preview) -> job_pb2.JobEvent:
    picture = event.picture
    preview = job_pb2.Preview(
        step=event.step, data=picture.data, width=picture.width, height=picture.height
    )
    return job_pb2.JobEvent(preview=preview)


@_event_to_proto.register
def _(event: StageCompleted) -> job_pb2.JobEvent:
    completed = job_pb2.StageCompleted(timing=timing_to_proto(event.timing))
    return job_pb2.JobEvent(stage_completed=completed)


@_event_to_proto.register
def _(event: JobCompleted) -> job_pb2.JobEvent:
    result = generation_pb2.GenerationResult(
        parameters=parameters_to_proto(event.parameters),
        artifacts=map(artifact_to_proto, event.artifacts),
        stage_timings=map(timing_to_proto, event.stage_timings),
        latents_checksum_xxh3=event.latents_checksum_xxh3,
        total_duration=duration_to_proto(event.total_seconds),
        written_prompt=event.written_prompt,
        cache_statistics=statistics_to_proto(event.cache_statistics),
        parallel_degrees=degrees_to_proto(event.degrees),
        conditioning_reuse=map(reuse_to_proto, event.conditioning_reuse),
    )
    return job_pb2.JobEvent(completed=job_pb2.JobCompleted(result=result))
