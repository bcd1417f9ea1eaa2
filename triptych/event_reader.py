"""Reads one Generate stream: messages in, events out, the artifact put together and verified."""

import xxhash

from triptych import wire
from triptych.cache_wire import decisions_from_proto, statistics_from_proto
from triptych.errors import ArtifactCorruptedError, CancelledError, InternalError, error_from
from triptych.events import (
    Accepted,
    Completed,
    Event,
    Preview,
    Queued,
    StageCompleted,
    StageStarted,
    StepCompleted,
)
from triptych.generation import Generation
from triptych.status import Failure
from triptych.v1 import generation_pb2, generation_service_pb2, job_pb2


class EventReader:
    """The state between the messages of one stream; knows nothing of how they arrive."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._completed = False

    def read(self, response: generation_service_pb2.GenerateResponse) -> Event | None:
        """The event a message tells of, if it tells of one.

        Raises:
            ArtifactCorruptedError: bytes are missing, surplus or changed.
            TriptychError: the job failed or was cancelled.
        """
        match response.WhichOneof("payload"):
            case "event":
                return self._event(response.event)
            case "artifact_chunk":
                self._append(response.artifact_chunk)
        return None

    def finish(self) -> None:
        """Called when the stream has ended without an error.

        Raises:
            InternalError: it ended before the job did.
        """
        if not self._completed:
            message = "the cluster ended the stream without a result"
            raise InternalError(Failure("INTERNAL", "STREAM_ENDED_EARLY", message))

    def _append(self, chunk: generation_service_pb2.ArtifactChunk) -> None:
        if chunk.offset_bytes != len(self._data):
            raise ArtifactCorruptedError(
                f"the artifact continued at byte {chunk.offset_bytes};"
                f" {len(self._data)} bytes had arrived"
            )
        self._data += chunk.data

    def _event(self, event: job_pb2.JobEvent) -> Event | None:
        match event.WhichOneof("event"):
            case "accepted":
                parameters = wire.parameters_from_proto(event.accepted.parameters)
                return Accepted(event.job_id, parameters)
            case "queued":
                wait_seconds = wire.seconds_from_proto(event.queued.estimated_wait)
                return Queued(event.queued.position, wait_seconds)
            case "stage_started":
                started = event.stage_started
                stage = wire.stage_from_proto(started.stage)
                return StageStarted(stage, wire.task_from_proto(started.task))
            case "stage_completed":
                return StageCompleted(wire.timing_from_proto(event.stage_completed.timing))
            case _:
                return self._step_event(event)

    def _step_event(self, event: job_pb2.JobEvent) -> Event | None:
        match event.WhichOneof("event"):
            case "step_completed":
                step = event.step_completed
                seconds = wire.seconds_from_proto(step.duration)
                decisions = decisions_from_proto(step)
                return StepCompleted(step.step, step.total_steps, step.sigma, seconds, decisions)
            case "preview":
                drawn = event.preview
                return Preview(drawn.step, drawn.data, drawn.width, drawn.height)
            case _:
                return self._ending(event)

    def _ending(self, event: job_pb2.JobEvent) -> Event | None:
        match event.WhichOneof("event"):
            case "completed":
                self._completed = True
                return Completed(self._generation(event.job_id, event.completed.result))
            case "failed":
                raise error_from(wire.failure_from_proto(event.failed))
            case "cancelled":
                message = f"the job was cancelled after {event.cancelled.completed_steps} steps"
                raise CancelledError(Failure("CANCELLED", "CANCELLED", message))
        # Checkpoints, which this client does not ask for, and what only newer clusters tell:
        # none of it changes the result.
        return None

    def _generation(self, job_id: str, result: generation_pb2.GenerationResult) -> Generation:
        if len(result.artifacts) != 1:
            raise ArtifactCorruptedError(
                f"the cluster sent {len(result.artifacts)} artifacts; this client takes exactly 1"
            )
        artifact = result.artifacts[0]
        data = bytes(self._data)
        checksum = xxhash.xxh3_64_intdigest(data)
        if (len(data), checksum) != (artifact.size_bytes, artifact.checksum_xxh3):
            raise ArtifactCorruptedError(
                f"the artifact arrived with {len(data)} bytes and checksum {checksum:016x};"
                f" announced were {artifact.size_bytes} and {artifact.checksum_xxh3:016x}"
            )
        return Generation(
            job_id=job_id,
            data=data,
            media_format=wire.media_format_from_proto(artifact.media_format),
            width=artifact.width,
            height=artifact.height,
            num_frames=artifact.num_frames,
            checksum_xxh3=checksum,
            parameters=wire.parameters_from_proto(result.parameters),
            stage_timings=tuple(wire.timing_from_proto(each) for each in result.stage_timings),
            latents_checksum_xxh3=result.latents_checksum_xxh3,
            total_seconds=wire.seconds_from_proto(result.total_duration),
            cache_statistics=statistics_from_proto(result.cache_statistics)
            if result.HasField("cache_statistics")
            else None,
            written_prompt=result.written_prompt if result.HasField("written_prompt") else None,
            parallel_degrees=wire.degrees_from_proto(result.parallel_degrees),
            tile_size=artifact.tile_size,
            conditioning_reuse=tuple(map(wire.reuse_from_proto, result.conditioning_reuse)),
        )
