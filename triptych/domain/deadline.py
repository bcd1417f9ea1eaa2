"""A point in time that a request carries from hop to hop."""

import time
from dataclasses import dataclass

from triptych.domain.errors import DeadlineExceeded


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
