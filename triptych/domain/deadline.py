"""A point in time that a request carries from hop to hop."""

import time
from dataclasses import dataclass
from typing import Final

from triptych.domain.errors import DeadlineExceeded

_LONGEST_SECONDS: Final = 365 * 24 * 3600.0
"""gRPC takes a time that it cannot count, infinity first of all, for one that has passed."""


def checked_timeout(seconds: float) -> float:
    """As many seconds as a call may take, at most a year; infinity is as long as can be.

    Raises:
        ValueError: they are negative, or not a number.
    """
    if not seconds >= 0:
        raise ValueError(f"timeout is {seconds}; allowed are seconds from 0 on")
    return min(seconds, _LONGEST_SECONDS)


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a request stops being worth anything, on this process's monotonic clock.

    Between processes it travels as the time that is left (gRPC's own timeout), so clocks need not
    agree.
    """

    monotonic_time: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The deadline that passes in so many seconds from now."""
        return cls(time.monotonic() + seconds)

    def earlier(self, seconds: float) -> "Deadline":
        """A deadline so many seconds before this one: what a caller keeps for itself."""
        return Deadline(self.monotonic_time - seconds)

    def remaining_seconds(self) -> float:
        """Never negative."""
        return max(0.0, self.monotonic_time - time.monotonic())

    def check(self, doing: str) -> None:
        """Raises DeadlineExceeded, naming what was being done, once the deadline has passed."""
        if self.remaining_seconds() == 0:
            raise DeadlineExceeded(f"the deadline passed while {doing}")
