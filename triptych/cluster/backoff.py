"""How long to wait before a process that died is started again."""

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Doubles from `first_seconds` to `limit_seconds`; forgets after a long enough life.

    Attributes:
        healthy_seconds: a process that lived this long was well, so its death starts a new count.
        failures: deaths in a row, the latest included.
    """

    first_seconds: float = 0.5
    limit_seconds: float = 30.0
    healthy_seconds: float = 30.0
    failures: int = 0

    def after(self, lifetime_seconds: float) -> float:
        """Seconds to wait, now that a process has died after so many seconds of life."""
        if lifetime_seconds >= self.healthy_seconds:
            self.failures = 0
        self.failures += 1
        # The exponent is bounded so that a process that dies for days does not overflow a float.
        return min(self.limit_seconds, self.first_seconds * 2.0 ** min(self.failures - 1, 60))
