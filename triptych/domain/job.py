"""A generation that is kept track of until it ends, whoever watches it."""

from dataclasses import dataclass
from typing import Final

from triptych.domain.errors import FieldViolation, InvalidRequest
from triptych.domain.failure import Failure
from triptych.domain.generation import GenerationParameters
from triptych.domain.generation_result import GenerationResult
from triptych.domain.open_enum import OpenEnum

LATEST_SECONDS: Final = 253_402_300_800.0
"""The end of the year 9999, beyond which nothing has a time."""


class JobState(OpenEnum):
    """The life of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to a job in this state."""
        return self in ENDED


ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
"""The states that a job never leaves."""


class Priority(OpenEnum):
    """A job's class among others that wait; a higher one goes first, whatever the deadlines."""

    BATCH = "batch"
    STANDARD = "standard"
    INTERACTIVE = "interactive"


@dataclass(frozen=True, slots=True)
class Scheduling:
    """When and how urgently a job runs: by priority, then deadline, then submission.

    Attributes:
        deadline: when its result stops being worth anything, in seconds since the epoch; whole
            milliseconds are kept.
        max_queue_seconds: how long after its submission it still waits for a full cluster; None
            for as long as its deadline allows, 0 to be refused at once.
        max_run_seconds: how long after its start it is stopped; None for its deadline alone.

    Raises:
        InvalidRequest: one of them is no time, or not allowed.
    """

    priority: Priority = Priority.STANDARD
    deadline: float | None = None
    max_queue_seconds: float | None = None
    max_run_seconds: float | None = None

    def __post_init__(self) -> None:
        wrong = [
            FieldViolation(
                f"scheduling.{name}", f"is {value}; allowed are 0 to {LATEST_SECONDS:.0f} s"
            )
            for name in ("deadline", "max_queue_seconds", "max_run_seconds")
            if (value := getattr(self, name)) is not None and not 0 <= value < LATEST_SECONDS
        ]
        if wrong:
            raise InvalidRequest(wrong)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as its tenant sees it.

    Attributes:
        job_id: 32 hexadecimal digits.
        parameters: the effective ones.
        create_time: when it was submitted, in seconds since the epoch.
        start_time: when it was first taken up.
        end_time: when it ended.
        completed_steps: of the denoising loops of all its results together.
        total_steps: likewise, that there are to do.
        result: of one that succeeded.
        failure: of one that failed.
        last_sequence: the last event's number; watching resumes after it.
    """

    job_id: str
    state: JobState
    parameters: GenerationParameters
    scheduling: Scheduling
    create_time: float
    start_time: float | None = None
    end_time: float | None = None
    completed_steps: int = 0
    total_steps: int = 0
    result: GenerationResult | None = None
    failure: Failure | None = None
    last_sequence: int = 0


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which of a tenant's jobs are asked for.

    Attributes:
        page_size: up to 1000; 0 for the cluster's default.
        page_token: of an earlier page; empty for the first.
        states: which; empty for all.
    """

    page_size: int = 0
    page_token: str = ""
    states: tuple[JobState, ...] = ()


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of a tenant's jobs, newest first.

    Attributes:
        next_page_token: of the page after it; empty if there is none. A page may have fewer jobs
            than were asked for, or none, and yet have a next one.
    """

    jobs: tuple[Job, ...]
    next_page_token: str = ""
