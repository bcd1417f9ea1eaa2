"""A call that failed, as plain values."""

from dataclasses import dataclass

from triptych.domain.errors import FieldViolation


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed RPC, or a failed job.

    Attributes:
        status: canonical code name, for example "UNAVAILABLE".
        reason: stable and machine-readable, for example "STAGE_UNAVAILABLE"; equal to `status`
            when the failure did not come from Triptych (a refused connection, a proxy).
        message: a sentence for people.
        violations: for INVALID_ARGUMENT, every field that was refused.
        retry_after_seconds: when a repetition may help; None if the peer did not say.
        foreign: whether it did not come from Triptych.
        retryable: of a job that failed, whether the same request may succeed as another job.
    """

    status: str
    reason: str
    message: str
    violations: tuple[FieldViolation, ...] = ()
    retry_after_seconds: float | None = None
    foreign: bool = False
    retryable: bool = False
