"""A generation that is kept track of until it ends, whoever watches it."""

from typing import Final

from triptych.domain.open_enum import OpenEnum


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
