"""How long a call that takes several RPCs may still take."""

import time


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
