"""Everything that can go wrong, as one tree.

TriptychError
├── InvalidRequest         the request names something that is not allowed
├── NotFound
│   ├── ModelNotFound
│   ├── TensorNotFound     released, expired, or never there
│   ├── JobNotFound        no such job of the tenant's
│   └── ArtifactNotFound   deleted, expired, another tenant's, or never there
├── Expired                it was there, and is no longer kept
│   ├── JobExpired
│   └── EventsExpired      the job's first events; later ones are there
├── OutOfRange             an offset beyond the end
├── AlreadyExists          something of this id is at work, or kept, already
│   └── RequestIdReused    the client_request_id came with other parameters before
├── ClaimLost              another worker may have the job, or it has ended
├── Superseded             a later attempt of the job has come to the stage
├── Unauthenticated        no key, or nobody's
├── CallRefused            an administrative call without the cluster's signature
├── TensorRefused          a reference that is forged, foreign or malformed
├── TensorCorrupted        stored bytes differ from what was written
├── ResourceExhausted
│   ├── StoreFull
│   ├── QueueFull
│   ├── LedgerFull
│   └── QuotaExceeded
├── Unavailable            repeat the request later
│   ├── StageUnavailable
│   │   └── StageLoading
│   ├── RanksLost
│   ├── HandedOver         a denoiser that is drained leaves the request to another one
│   └── LedgerUnavailable  the jobs' ledger is not reached
├── DeadlineExceeded
├── Cancelled
├── Unsupported            part of the interface, not served by this release
├── RemoteFailure          a failure another process reported, passed on unchanged
└── ConfigurationError     a process cannot start as it was told to

An error knows its canonical status and a stable reason; the interceptor turns both into a gRPC
status once.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is not allowed.

    Attributes:
        field: path in GenerationParameters, for example "width".
        description: the value that came and what is allowed, as a sentence.
    """

    field: str
    description: str


class TriptychError(Exception):
    """Base of all errors Triptych raises on purpose."""

    status: str = "INTERNAL"
    reason: str = "INTERNAL"
    retry_after_seconds: float | None = None
    violations: Sequence[FieldViolation] = ()


class InvalidRequest(TriptychError):
    """The request names something that is not allowed; carries every violation found."""

    status = "INVALID_ARGUMENT"
    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{each.field}: {each.description}" for each in violations))
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidRequest":
        """The usual case of a single violation."""
        return cls([FieldViolation(field, description)])


class NotFound(TriptychError):
    """Base of what a request names but is not there."""

    status = "NOT_FOUND"
    reason = "NOT_FOUND"


class ModelNotFound(NotFound):
    """No such model is served."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, name: str, served: Sequence[str]) -> None:
        allowed = ", ".join(sorted(served)) or "none"
        wrong = (
            f"{name!r} is not served here" if name else "is missing, and not one is served alone"
        )
        super().__init__(f"model: {wrong}; served models: {allowed}")


class TensorNotFound(NotFound):
    """The tensors were released, expired, or were never there."""

    reason = "TENSOR_NOT_FOUND"


class JobNotFound(NotFound):
    """The tenant has no such job, and had none as far back as is remembered."""

    reason = "JOB_NOT_FOUND"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job_id: there is no job {job_id!r}")


class ArtifactNotFound(NotFound):
    """The tenant has no such artifact: deleted, expired, another tenant's, or never there."""

    reason = "ARTIFACT_NOT_FOUND"

    def __init__(self, artifact_id: str) -> None:
        super().__init__(f"artifact_id: {artifact_id[:80]!r} is not here (any more)")


class Expired(TriptychError):
    """Base of what was there and is no longer kept."""

    status = "OUT_OF_RANGE"
    reason = "EXPIRED"


class JobExpired(Expired):
    """The job ended too long ago, or had to make room for others."""

    reason = "JOB_EXPIRED"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job_id: the job {job_id!r} has ended and is no longer kept")


class EventsExpired(Expired):
    """The job's events after the one that was named are no longer all kept."""

    reason = "EVENTS_EXPIRED"

    def __init__(self, after_sequence: int, first_sequence: int) -> None:
        super().__init__(
            f"after_sequence: is {after_sequence}; the events before {first_sequence} are no"
            f" longer kept, allowed is {first_sequence - 1} or later"
        )


class AlreadyExists(TriptychError):
    """Something of this id is at work, or kept, already."""

    status = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class RequestIdReused(AlreadyExists):
    """The client_request_id came with other parameters before."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, client_request_id: str, job_id: str) -> None:
        super().__init__(
            f"client_request_id: {client_request_id!r} came with other parameters before, for the"
            f" job {job_id}; use another one"
        )


class ClaimLost(TriptychError):
    """A worker's claim on a job was superseded, or the job has ended; its write was refused."""

    status = "ABORTED"
    reason = "CLAIM_LOST"


class Superseded(TriptychError):
    """A stage works for a later attempt of the job; what was under way for this one has ended."""

    status = "ABORTED"
    reason = "SUPERSEDED"

    def __init__(self, request_id: str, attempt: int) -> None:
        super().__init__(
            f"attempt: is {attempt}; a later attempt of the request {request_id} has come"
        )


class OutOfRange(TriptychError):
    """An offset beyond the end of what is read."""

    status = "OUT_OF_RANGE"
    reason = "OUT_OF_RANGE"


class Unauthenticated(TriptychError):
    """A call came without a key, or with nobody's."""

    status = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class CallRefused(TriptychError):
    """An administrative call that was not signed with the cluster's secret."""

    status = "PERMISSION_DENIED"
    reason = "CALL_REFUSED"


class TensorRefused(TriptychError):
    """A reference that is forged, belongs to another request, tenant or store, or is malformed."""

    status = "PERMISSION_DENIED"
    reason = "TENSOR_REFUSED"


class TensorCorrupted(TriptychError):
    """Stored bytes differ from what was written."""

    status = "DATA_LOSS"
    reason = "TENSOR_CORRUPTED"


class ResourceExhausted(TriptychError):
    """Base of what is full now."""

    status = "RESOURCE_EXHAUSTED"
    reason = "RESOURCE_EXHAUSTED"
    retry_after_seconds = 1.0


class StoreFull(ResourceExhausted):
    """The tensor store's quota or its file system is full."""

    reason = "STORE_FULL"


class QueueFull(ResourceExhausted):
    """A stage's queue is full."""

    reason = "QUEUE_FULL"

    def __init__(self, stage: str, limit: int, retry_after_seconds: float) -> None:
        super().__init__(f"the {stage}'s queue is full ({limit} requests wait)")
        self.retry_after_seconds = retry_after_seconds


class LedgerFull(ResourceExhausted):
    """The jobs' ledger has no room for one more."""

    reason = "LEDGER_FULL"


class QuotaExceeded(ResourceExhausted):
    """A tenant has used up its quota."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, name: str, limit: float, *, retry_after_seconds: float) -> None:
        super().__init__(f"quota: {name} is {limit:g} and used up; repeat the request later")
        self.retry_after_seconds = retry_after_seconds


class Unavailable(TriptychError):
    """Base of what is down now; the request is safe to repeat."""

    status = "UNAVAILABLE"
    reason = "UNAVAILABLE"
    retry_after_seconds = 1.0


class StageUnavailable(Unavailable):
    """A stage is down, unreachable, or draining."""

    reason = "STAGE_UNAVAILABLE"


class StageLoading(StageUnavailable):
    """A stage is starting: it loads its model, or has not answered yet."""

    reason = "STAGE_LOADING"


class RanksLost(Unavailable):
    """A process that runs the denoising loop died or hung; the group is being rebuilt."""

    reason = "RANKS_LOST"


class HandedOver(Unavailable):
    """A denoiser that is drained has saved the request, for another one to go on at once."""

    reason = "HANDED_OVER"
    retry_after_seconds = 0.0


class LedgerUnavailable(Unavailable):
    """The jobs' ledger is not reached, or refuses to write."""

    reason = "LEDGER_UNAVAILABLE"


class DeadlineExceeded(TriptychError):
    """The request's deadline passed before it was done."""

    status = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class Cancelled(TriptychError):
    """The request was cancelled."""

    status = "CANCELLED"
    reason = "CANCELLED"


class Unsupported(TriptychError):
    """Part of the interface that this release does not serve."""

    status = "UNIMPLEMENTED"
    reason = "UNIMPLEMENTED"


class RemoteFailure(TriptychError):
    """A failure another process reported, passed on unchanged."""

    def __init__(
        self,
        message: str,
        *,
        status: str,
        reason: str,
        violations: Sequence[FieldViolation] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.violations = tuple(violations)
        self.retry_after_seconds = retry_after_seconds


class ConfigurationError(TriptychError):
    """A process cannot start as it was told to; the message says what to change."""

    status = "FAILED_PRECONDITION"
    reason = "CONFIGURATION"
