"""When a call that failed is repeated, and after how long."""

import random
import time
from collections.abc import Callable
from typing import Final

from triptych.domain.deadline import Deadline
from triptych.errors import TriptychError

_TRIES: Final = 4
_FIRST_SECONDS: Final = 0.25
_LONGEST_SECONDS: Final = 5.0
_OUT_OF_REACH_SECONDS: Final = 60.0
"""As long as a gateway may take to be replaced by another one."""
_BROKEN: Final = frozenset({"INTERNAL", "UNKNOWN"})
"""What gRPC makes of a stream that was cut, by a proxy for example, beside UNAVAILABLE."""


class Retries:
    """Of one call that is safe to repeat, or of one stream that can be resumed.

    A call is repeated three times. A stream is given up when it did not get any further for a
    minute; one that never began is repeated as a call is.

    Args:
        deadline: no pause reaches beyond it.
        now: seconds of a monotonic clock.
        draw: a number from 0 to 1.
    """

    def __init__(
        self,
        deadline: Deadline,
        *,
        now: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._deadline = deadline
        self._now = now
        self._draw = draw
        self._failures = 0
        self._reached: float | None = None

    def advanced(self) -> None:
        """Called when the stream got further."""
        self._failures = 0
        self._reached = self._now()

    def pause_seconds(self, error: TriptychError) -> float:
        """How long to wait before the next try, never less than the cluster asks for.

        Raises:
            TriptychError: the error itself, when there is no next try.
        """
        if not (self._may_pass(error) and self._has_tries()):
            raise error
        doubled = min(_FIRST_SECONDS * 2.0**self._failures, _LONGEST_SECONDS)
        self._failures += 1
        # Clients that lost their gateway together do not come back together.
        seconds = max(doubled * (0.5 + self._draw() / 2), error.retry_after_seconds or 0.0)
        if seconds >= self._deadline.remaining_seconds():
            raise error
        return seconds

    def _may_pass(self, error: TriptychError) -> bool:
        match error.failure.status:
            case "UNAVAILABLE":
                return True
            case "RESOURCE_EXHAUSTED":
                # Whoever begins can be told; whoever goes on would lose what there is.
                return self._reached is not None and error.retry_after_seconds is not None
            case status:
                return error.failure.foreign and status in _BROKEN

    def _has_tries(self) -> bool:
        if self._failures + 1 < _TRIES:
            return True
        return self._reached is not None and self._now() < self._reached + _OUT_OF_REACH_SECONDS
