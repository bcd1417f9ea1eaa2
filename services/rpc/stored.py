"""What a jobs' ledger keeps of a job, between nouns and bytes.

A ledger knows none of it. Later releases read what this one wrote: fields are only ever added.
"""

from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.domain.checkpoint import Checkpoint
from services.domain.job_event import ArtifactChunk, JobEvent
from services.domain.stages import Denoised, Encoded, EncodedImage
from services.rpc.tables import CHECKPOINTS, DENOISED, ENCODED, ENCODED_IMAGES
from triptych.codec.choice import Choice
from triptych.codec.table import Table
from triptych.codec.tables import FAILURES, JOB_EVENTS, RESULTS
from triptych.domain.failure import Failure
from triptych.domain.generation import GenerationParameters
from triptych.domain.generation_result import Artifact, GenerationResult
from triptych.domain.stage_timing import StageTiming
from triptych.v1 import generation_pb2, job_pb2, stored_job_pb2


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """What a worker has to know to do a job.

    Attributes:
        parameters: effective values.
        images: where the bytes of their images are kept, in their order.
        traceparent: of the call that submitted the job; empty if nobody collects it.
        bound: whether the job ends when the stream of its caller does.
    """

    parameters: GenerationParameters
    images: tuple[ArtifactKey, ...] = ()
    traceparent: str = ""
    bound: bool = False


@dataclass(frozen=True, slots=True)
class DecodedArtifact:
    """An artifact whose bytes are in the artifact store, and how long it took to make."""

    artifact: Artifact
    timing: StageTiming


Output = Encoded | EncodedImage | Checkpoint | Denoised | DecodedArtifact
"""What a stage gave. Latents take the place of the checkpoint before them."""


def _key(tenant: str, kind: str, artifact_id: str) -> ArtifactKey:
    return ArtifactKey(tenant, ArtifactKind(kind), artifact_id)


Table(ArtifactKey, stored_job_pb2.StoredArtifactKey, build=_key)
_REQUESTS: Final = Table(StoredRequest, stored_job_pb2.StoredRequest)
_OUTPUTS: Final = Choice(
    stored_job_pb2.StoredOutput,
    "output",
    {
        "encoded": ENCODED,
        "encoded_image": ENCODED_IMAGES,
        "checkpoint": CHECKPOINTS,
        "denoised": DENOISED,
        "decoded": Table(DecodedArtifact, stored_job_pb2.DecodedArtifact),
    },
    {},
)


def request_bytes(request: StoredRequest) -> bytes:
    """A job's parameters, as a ledger keeps them."""
    return _REQUESTS.write(request).SerializeToString()


def request_of(stored: bytes) -> StoredRequest:
    """Reads a job's parameters."""
    return _REQUESTS.read(stored_job_pb2.StoredRequest.FromString(stored), strict=False)


def output_bytes(output: Output) -> bytes:
    """What a stage gave, as a ledger keeps it."""
    return _OUTPUTS.write(output).SerializeToString()


def output_of(stored: bytes) -> Output | None:
    """Reads what a stage gave; None for what only a later release knows."""
    output: Output | None = _OUTPUTS.read(
        stored_job_pb2.StoredOutput.FromString(stored), strict=False
    )
    return output


def event_bytes(event: JobEvent) -> bytes:
    """An event, as a ledger keeps it: its number, its time and its job are the ledger's to say.

    Raises:
        TypeError: for an ArtifactChunk, which is no event.
    """
    if isinstance(event, ArtifactChunk):
        raise TypeError("an artifact's bytes are kept in the artifact store")
    return JOB_EVENTS.write(event).SerializeToString()


def event_message(job_id: str, sequence: int, time: float, stored: bytes) -> job_pb2.JobEvent:
    """An event as its watchers get it.

    Args:
        job_id: whose.
        sequence: its number.
        time: when it happened, in seconds since the epoch.
        stored: as a ledger keeps it.
    """
    message = job_pb2.JobEvent.FromString(stored)
    message.job_id, message.sequence = job_id, sequence
    moment = Timestamp()
    moment.FromMicroseconds(round(time * 1e6))
    message.event_time.CopyFrom(moment)
    return message


def result_bytes(result: GenerationResult) -> bytes:
    """The outcome of a job that succeeded, as a ledger keeps it."""
    return RESULTS.write(result).SerializeToString()


def result_of(outcome: bytes) -> GenerationResult:
    """Reads the outcome of a job that succeeded."""
    return RESULTS.read(generation_pb2.GenerationResult.FromString(outcome), strict=False)


def failure_bytes(failure: Failure) -> bytes:
    """The outcome of a job that failed, as a ledger keeps it."""
    return FAILURES.write(failure).SerializeToString()


def failure_of(outcome: bytes) -> Failure:
    """Reads the outcome of a job that failed."""
    return FAILURES.read(job_pb2.JobFailed.FromString(outcome), strict=False)
