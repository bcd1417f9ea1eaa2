"""How long a call that takes several RPCs may still take."""

import time
from typing import Final

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


class Deadline:
    """A moment; every RPC on the way there gets what is left until then.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def remaining_seconds(self) -> float:
        """0 once it has passed."""
        return max(0.0, self._ends_at - time.monotonic())
