"""Reads a job's events: messages in, events out, the artifacts put together and verified."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Final

import xxhash
from google.protobuf.message import Message

from triptych.codec.tables import JOB_EVENTS
from triptych.domain.events import Accepted, JobCancelled
from triptych.domain.failure import Failure
from triptych.domain.generation_result import Artifact, GenerationResult
from triptych.errors import (
    ArtifactCorruptedError,
    CancelledError,
    InternalError,
    TriptychError,
    error_from,
)
from triptych.events import Completed, Event
from triptych.generation import Generation
from triptych.v1 import generation_service_pb2 as messages
from triptych.v1 import job_pb2

_NO_SUCH_JOB: Final = frozenset({"UNIMPLEMENTED", "JOB_NOT_FOUND", "JOB_EXPIRED"})


class EventReader:
    """The state between a job's messages, of one stream or of several; knows nothing of transport.

    It begins with a Generate stream, in which the artifacts' bytes come among the events, or with
    a WatchJob stream. Either one goes on as a WatchJob stream after it broke.

    Args:
        generate: what begins the job; None for one that was submitted before.
        job_id: of that one.
        after_sequence: the last event that is known of that one.

    Attributes:
        job_id: empty while it is not known.
        position: the last event's sequence number.
        has_ended: whether the last event was read.
    """

    def __init__(
        self,
        generate: messages.GenerateRequest | None = None,
        *,
        job_id: str = "",
        after_sequence: int = 0,
    ) -> None:
        self.job_id = job_id
        self.position = after_sequence
        self.has_ended = False
        self._generate = generate
        self._broken: TriptychError | None = None
        self._result: GenerationResult | None = None
        self._files: list[bytearray] = []
        self._num_images = 1

    @property
    def is_bound(self) -> bool:
        """Whether the job is the caller's, and no stream is there that it would end with."""
        return self._broken is not None and not self.has_ended

    @property
    def missing(self) -> tuple[Artifact, ...]:
        """The artifacts that have to be downloaded, after the last event."""
        return () if self._result is None else self._result.artifacts

    def request(self) -> tuple[str, Message]:
        """The method that gives the events that were not read yet, and what it is asked."""
        if self._generate is not None and self._broken is None:
            return "Generate", self._generate
        asked = messages.WatchJobRequest(job_id=self.job_id, after_sequence=self.position)
        return "WatchJob", asked

    def break_off(self, error: TriptychError) -> None:
        """Called when the stream broke.

        Raises:
            TriptychError: why no other stream can go on.
        """
        if self._generate is None:
            return
        if self._broken is not None:
            if error.reason in _NO_SUCH_JOB:
                # A cluster that keeps no jobs, or whose jobs went with their gateway.
                self.has_ended = True
                raise self._broken
            return
        if not (self.job_id and self.position):
            raise error
        self._broken = error
        self._files.clear()

    def read(self, response: messages.GenerateResponse | messages.WatchJobResponse) -> Event | None:
        """The event a message tells of, if it tells of one.

        Raises:
            ArtifactCorruptedError: bytes are missing, surplus or changed.
            TriptychError: the job failed or was cancelled, or events are missing or come twice.
        """
        if isinstance(response, messages.WatchJobResponse) or response.HasField("event"):
            return self._event(response.event)
        if response.HasField("artifact_chunk"):
            self._append(response.artifact_chunk)
        return None

    def finish(self) -> None:
        """Called when the stream has ended without an error.

        Raises:
            InternalError: it ended before the job did.
        """
        if not self.has_ended:
            message = "the cluster ended the stream without a result"
            raise InternalError(Failure("INTERNAL", "STREAM_ENDED_EARLY", message))

    def complete(self, files: Sequence[bytes]) -> Completed:
        """The last event, from the downloaded artifacts.

        Raises:
            ArtifactCorruptedError: they are not those that were announced.
        """
        assert self._result is not None
        return Completed(self._generation(self._result, files))

    def _append(self, chunk: messages.ArtifactChunk) -> None:
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
        self._count(message)
        match JOB_EVENTS.read(message, strict=False):
            case Failure() as failure:
                self.has_ended = True
                raise error_from(failure)
            case JobCancelled(completed_steps=steps):
                self.has_ended = True
                said = f"the job was cancelled after {steps} steps"
                raise CancelledError(Failure("CANCELLED", "CANCELLED", said))
            case Accepted() as accepted:
                self._num_images = accepted.parameters.num_images
                return replace(accepted, job_id=message.job_id)
            case GenerationResult() as result:
                self.has_ended = True
                if self._generate is None or self._broken is not None:
                    self._result = result
                    return None
                return Completed(self._generation(result, [bytes(data) for data in self._files]))
            case event:
                # None for what only newer clusters tell: none of it changes the result.
                return event  # type: ignore[no-any-return]

    def _count(self, message: job_pb2.JobEvent) -> None:
        self.job_id = self.job_id or message.job_id
        if message.sequence != self.position + 1:
            said = f"the event {message.sequence} came after the event {self.position}"
            raise InternalError(Failure("DATA_LOSS", "EVENTS_OUT_OF_ORDER", said))
        self.position = message.sequence

    def _generation(self, result: GenerationResult, files: Sequence[bytes]) -> Generation:
        wanted, came = result.parameters.num_images, len(result.artifacts)
        if came != wanted:
            raise ArtifactCorruptedError(f"the cluster sent {came} artifacts; asked were {wanted}")
        found = [*files, *[b""] * (came - len(files))]
        for data, artifact in zip(found, result.artifacts, strict=False):
            checksum = xxhash.xxh3_64_intdigest(data)
            if (len(data), checksum) != (artifact.size_bytes, artifact.checksum_xxh3):
                raise ArtifactCorruptedError(
                    f"the artifact arrived with {len(data)} bytes and checksum {checksum:016x};"
                    f" announced were {artifact.size_bytes} and {artifact.checksum_xxh3:016x}"
                )
        told = {field.name: getattr(result, field.name) for field in fields(result)}
        return Generation(job_id=self.job_id, files=tuple(found), **told)
