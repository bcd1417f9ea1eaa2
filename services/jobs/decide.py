"""What a job does after one of its stages failed: the whole of it, as one table."""

import math
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from services.jobs.bounds import end_time
from services.jobs.record import JobRecord
from triptych.domain.errors import (
    ArtifactNotFound,
    CallRefused,
    HandedOver,
    JobNotFound,
    QueueFull,
    RanksLost,
    RequestIdReused,
    ResourceExhausted,
    TensorCorrupted,
    TensorNotFound,
    TensorRefused,
    TriptychError,
)
from triptych.domain.stage_timing import StageTask

_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 30.0

_BEFORE: Final = {
    StageTask.DECODE: StageTask.DENOISE,
    StageTask.DENOISE: StageTask.ENCODE_PROMPT,
    StageTask.ENCODE_PROMPT: StageTask.ENCODE_PROMPT,
    StageTask.ENCODE_IMAGES: StageTask.ENCODE_IMAGES,
}
"""Which task's outputs a task reads; before denoising, prompt and images are encoded at once."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The job goes on.

    Attributes:
        after_seconds: not sooner.
        from_task: the task to repeat, and all after it.
        elsewhere: on another replica than the one that failed, if there is one.
        counts: whether it was a failure of the task, for the job's record.
    """

    after_seconds: float
    from_task: StageTask
    elsewhere: bool
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Fail:
    """The job ends.

    Attributes:
        reason: the error's.
        retryable: whether the same request may succeed as a new job.
    """

    reason: str
    retryable: bool


class _Cure(Enum):
    """What may help."""

    NONE = "the same again would fail the same way"
    NEW_JOB = "this job cannot have it; another one may"
    TIME = "what is full or down now need not be so later"
    OTHER_REPLICA = "a replica may be broken, or of another release"
    ANOTHER_TURN = "nothing is broken: another replica goes on where this one was told to stop"
    EARLIER_TASK = "what the task reads has to be made again"


@dataclass(frozen=True, slots=True)
class _Rule:
    """How often a cure is tried for one task, beside the first time.

    Attributes:
        longest_pause_seconds: between two tries, unless the error asks for more.
    """

    cure: _Cure
    tries: float = 0
    longest_pause_seconds: float = _LONGEST_PAUSE_SECONDS


# With the pauses, some eight minutes.
_LATER: Final = _Rule(_Cure.TIME, tries=20)
# It is the job's turn to come, and its scheduling says how long it waits.
_IN_TURN: Final = _Rule(_Cure.TIME, tries=math.inf, longest_pause_seconds=1.0)
_ELSEWHERE: Final = _Rule(_Cure.OTHER_REPLICA, tries=2)
# Each time a replica was drained, which takes no further work.
_HANDED_OVER: Final = _Rule(_Cure.ANOTHER_TURN, tries=math.inf)
# The request may be what kills them.
_SURVIVING: Final = _Rule(_Cure.OTHER_REPLICA, tries=5)
# A store's server that is restarted loses all; replicas learn of that one after the other.
_REMAKE: Final = _Rule(_Cure.EARLIER_TASK, tries=10)
_NEVER: Final = _Rule(_Cure.NONE)
_NOT_THIS_JOB: Final = _Rule(_Cure.NEW_JOB)

_BY_REASON: Final = {
    TensorNotFound.reason: _REMAKE,
    TensorCorrupted.reason: _REMAKE,
    # Of another store, when the replica that wrote it shares none with the one that reads it.
    TensorRefused.reason: _REMAKE,
    CallRefused.reason: _NEVER,
    RanksLost.reason: _SURVIVING,
    QueueFull.reason: _IN_TURN,
    HandedOver.reason: _HANDED_OVER,
    # An input that was deleted or has expired: nobody but its client can bring it again.
    ArtifactNotFound.reason: _NOT_THIS_JOB,
    # Of the ledger, as are some statuses below: no stage raises them.
    RequestIdReused.reason: _NEVER,
    JobNotFound.reason: _NOT_THIS_JOB,
}
"""What a status alone does not tell."""

_BY_STATUS: Final = {
    "CANCELLED": _NOT_THIS_JOB,
    "UNKNOWN": _ELSEWHERE,
    "INVALID_ARGUMENT": _NEVER,
    "DEADLINE_EXCEEDED": _NOT_THIS_JOB,
    # A replica that took up another model since it was chosen.
    "NOT_FOUND": _ELSEWHERE,
    # An earlier attempt of the job is still at work there.
    "ALREADY_EXISTS": _LATER,
    "PERMISSION_DENIED": _NEVER,
    "RESOURCE_EXHAUSTED": _LATER,
    "FAILED_PRECONDITION": _ELSEWHERE,
    # The worker has no say any more, whether the ledger or a stage tells it so, and its end of the
    # job will be refused.
    "ABORTED": _NOT_THIS_JOB,
    "OUT_OF_RANGE": _NOT_THIS_JOB,
    "UNIMPLEMENTED": _ELSEWHERE,
    "INTERNAL": _ELSEWHERE,
    "UNAVAILABLE": _LATER,
    "DATA_LOSS": _ELSEWHERE,
    "UNAUTHENTICATED": _NEVER,
}
"""Every canonical status of a failure."""


def decide(error: TriptychError, record: JobRecord, task: StageTask, now: float) -> Retry | Fail:
    """Whether a job goes on after a failure, from where, and when. Pure.

    Where something is full, the question is for after all replicas have said so: a job that does
    not wait in a queue is told then.

    Args:
        error: what the task raised, here or in another process.
        record: of the job, before this failure is counted.
        task: what failed.
        now: seconds since the epoch.
    """
    rule = _BY_REASON.get(error.reason, _BY_STATUS[error.status])
    counts = rule.cure is not _Cure.ANOTHER_TURN
    earlier_failures = record.failures.get(task, 0)
    pause = 0.0
    if counts:
        pause = _pause_seconds(error, record, earlier_failures, rule.longest_pause_seconds)
    ends = _end_time(error, record)
    if earlier_failures >= rule.tries or now + pause >= ends:
        return Fail(error.reason, retryable=rule.cure is not _Cure.NONE)
    remade = rule.cure is _Cure.EARLIER_TASK
    return Retry(
        after_seconds=pause,
        from_task=_BEFORE[task] if remade else task,
        elsewhere=not remade,
        counts=counts,
    )


def _end_time(error: TriptychError, record: JobRecord) -> float:
    """When the job no longer waits for what it lacks."""
    ends = [math.inf if (end := end_time(record)) is None else end]
    queue_seconds = record.scheduling.max_queue_seconds
    is_full = error.status == ResourceExhausted.status
    if is_full and queue_seconds is not None and not _has_begun(record):
        ends.append(record.create_time + queue_seconds)
    return min(ends)


def _has_begun(record: JobRecord) -> bool:
    """Whether steps were taken, which are worth more than a place in a queue."""
    return bool(record.completed_steps) or any(
        slot.task is StageTask.DENOISE for slot in record.outputs
    )


def _pause_seconds(
    error: TriptychError, record: JobRecord, earlier_failures: int, longest: float
) -> float:
    """Doubled each time, but not below what the error asks for, and different for each job."""
    if not earlier_failures:
        # What it asks for is of one replica, and another one is there most of the time.
        return 0.0
    doubled = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(earlier_failures, 60), longest)
    # Jobs that failed together do not come back together.
    spread = zlib.crc32(f"{record.key}:{earlier_failures}".encode()) / 2**32
    return max(doubled, error.retry_after_seconds or 0.0) * (1 + spread / 4)
