"""Reads one Generate stream: messages in, events out, the artifact put together and verified."""

from dataclasses import fields, replace

import xxhash

from triptych.codec.tables import JOB_EVENTS
from triptych.domain.events import Accepted
from triptych.domain.failure import Failure
from triptych.domain.generation_result import GenerationResult
from triptych.errors import ArtifactCorruptedError, CancelledError, InternalError, error_from
from triptych.events import Completed, Event
from triptych.generation import Generation
from triptych.v1 import generation_service_pb2, job_pb2


class EventReader:
    """The state between the messages of one stream; knows nothing of how they arrive."""

    def __init__(self) -> None:
        self._files: list[bytearray] = []
        self._num_images = 1
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
        begins = chunk.HasField("artifact") and len(self._files) < self._num_images
        if begins or not self._files:
            self._files.append(bytearray())
        data = self._files[-1]
        if chunk.offset_bytes != len(data):
            raise ArtifactCorruptedError(
                f"the artifact continued at byte {chunk.offset_bytes};"
                f" {len(data)} bytes had arrived"
            )
        data += chunk.data

    def _event(self, message: job_pb2.JobEvent) -> Event | None:
        if message.WhichOneof("event") == "cancelled":
            said = f"the job was cancelled after {message.cancelled.completed_steps} steps"
            raise CancelledError(Failure("CANCELLED", "CANCELLED", said))
        match JOB_EVENTS.read(message, strict=False):
            case Failure() as failure:
                raise error_from(failure)
            case Accepted() as accepted:
                self._num_images = accepted.parameters.num_images
                return replace(accepted, job_id=message.job_id)
            case GenerationResult() as result:
                self._completed = True
                return Completed(self._generation(message.job_id, result))
            case event:
                # None for checkpoints, which this client does not ask for, and for what only newer
                # clusters tell: none of it changes the result.
                return event  # type: ignore[no-any-return]

    def _generation(self, job_id: str, result: GenerationResult) -> Generation:
        wanted, came = result.parameters.num_images, len(result.artifacts)
        if came != wanted:
            raise ArtifactCorruptedError(f"the cluster sent {came} artifacts; asked were {wanted}")
        missing = came - len(self._files)
        files = [bytes(data) for data in self._files] + [b""] * missing
        for data, artifact in zip(files, result.artifacts, strict=False):
            checksum = xxhash.xxh3_64_intdigest(data)
            if (len(data), checksum) != (artifact.size_bytes, artifact.checksum_xxh3):
                raise ArtifactCorruptedError(
                    f"the artifact arrived with {len(data)} bytes and checksum {checksum:016x};"
                    f" announced were {artifact.size_bytes} and {artifact.checksum_xxh3:016x}"
                )
        told = {field.name: getattr(result, field.name) for field in fields(result)}
        return Generation(job_id=job_id, files=tuple(files), **told)
