"""Everything the client raises on purpose, as one tree.

TriptychError
├── InvalidRequestError       the request names something that is not allowed
├── UnauthenticatedError      the key is missing or nobody's
├── NotFoundError
│   └── ModelNotFoundError
├── AlreadyExistsError        the request_id came with another request before
├── OutOfRangeError           an offset beyond the end, or what is no longer kept
├── ResourceExhaustedError    full now; repeat after `retry_after_seconds`
├── UnavailableError          down or unreachable now; safe to repeat
├── DeadlineExceededError
├── CancelledError            cancelled by somebody else than the caller
├── UnimplementedError        part of the interface that this cluster does not serve
├── ArtifactCorruptedError    the bytes that came are not those that were announced
└── InternalError             anything else
"""

from collections.abc import Sequence

from triptych.domain.errors import FieldViolation
from triptych.domain.failure import Failure


class TriptychError(Exception):
    """Base of all errors the client raises on purpose.

    Attributes:
        failure: status, stable reason, message and details, as the cluster sent them.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    @property
    def reason(self) -> str:
        """Stable and machine-readable, for example "STAGE_UNAVAILABLE"."""
        return self.failure.reason

    @property
    def retry_after_seconds(self) -> float | None:
        """When a repetition may help; None if the cluster did not say."""
        return self.failure.retry_after_seconds


class InvalidRequestError(TriptychError):
    """The request names something that is not allowed."""

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """Every field that was refused, and why."""
        return self.failure.violations


class UnauthenticatedError(TriptychError):
    """The cluster asks for a key, and none came or nobody's."""


class NotFoundError(TriptychError):
    """What the request names is not there."""


class ModelNotFoundError(NotFoundError):
    """No such model is served."""


class AlreadyExistsError(TriptychError):
    """The request_id came with another request before."""


class OutOfRangeError(TriptychError):
    """What is asked for begins beyond the end of what is there, or is no longer kept."""


class ResourceExhaustedError(TriptychError):
    """A queue, a store or the tenant's quota is full now."""


class UnavailableError(TriptychError):
    """The cluster or one of its stages is down or unreachable now; safe to repeat."""


class DeadlineExceededError(TriptychError):
    """The deadline passed before the request was done."""


class CancelledError(TriptychError):
    """The job was cancelled by somebody else than the caller."""


class UnimplementedError(TriptychError):
    """Part of the interface that this cluster does not serve."""


class ArtifactCorruptedError(TriptychError):
    """The artifact's bytes are not those the cluster announced; the request is safe to repeat."""

    def __init__(self, message: str) -> None:
        super().__init__(Failure("DATA_LOSS", "ARTIFACT_CORRUPTED", message))


class InternalError(TriptychError):
    """The cluster failed in a way that has no better name here; `failure.status` tells more."""


_BY_STATUS: dict[str, type[TriptychError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "NOT_FOUND": NotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "OUT_OF_RANGE": OutOfRangeError,
    "RESOURCE_EXHAUSTED": ResourceExhaustedError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "CANCELLED": CancelledError,
    "UNIMPLEMENTED": UnimplementedError,
}


def error_from(failure: Failure) -> TriptychError:
    """The error that a failure is raised as."""
    if failure.reason == "MODEL_NOT_FOUND":
        return ModelNotFoundError(failure)
    return _BY_STATUS.get(failure.status, InternalError)(failure)


def refusal(violations: Sequence[FieldViolation]) -> InvalidRequestError:
    """What the client itself refuses, before it is sent."""
    message = "; ".join(f"{each.field}: {each.description}" for each in violations)
    failure = Failure("INVALID_ARGUMENT", "INVALID_REQUEST", message, tuple(violations))
    return InvalidRequestError(failure)
