"""One replica, and what the gateway knows of it."""

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from services.domain.stages import Capacity, Replica
from services.observability.logs import get_logger
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TriptychError
from triptych.domain.model import Stage

_REPORT_SECONDS: Final = 2.0
_MISSES: Final = 2
"""Reports in a row without which a replica is down: one alone may be a pause."""

_FORGET_SECONDS: Final = 3600.0
"""After which a replica that never came back no longer says which models there are."""

P = TypeVar("P", bound=Replica)

_log = get_logger(__name__)


class Watched(Generic[P]):
    """A replica and what is known of it.

    Args:
        stage: which panel it is.
        port: the replica.
        clock: seconds that only grow.

    Attributes:
        last_capacity: what it last reported; None while it does not answer.
        assigned: requests it was chosen for since then.
        answered: whether it ever reported.
        changes: how often what it holds, and whether it takes requests, turned out another one.
    """

    def __init__(self, stage: Stage, port: P, clock: Callable[[], float] = time.monotonic) -> None:
        self.stage = stage
        self.port = port
        self.last_capacity: Capacity | None = None
        self.assigned = 0
        self.answered = False
        self.changes = 0
        self._clock = clock
        self._misses = 0
        self._held: frozenset[str] = frozenset()
        self._held_time = 0.0

    @property
    def known_models(self) -> frozenset[str]:
        """Names of the models it holds, or held when it was last there, not long ago."""
        lasts = self._clock() - self._held_time < _FORGET_SECONDS
        return self._held if lasts else frozenset()

    async def look(self) -> None:
        """Asks for its report."""
        try:
            reported = await self.port.capacity(Deadline.after(_REPORT_SECONDS))
        except TriptychError as error:
            self._miss(error)
            return
        before, self.last_capacity = self.last_capacity, reported
        if before is None or _offer(before) != _offer(reported):
            self.changes += 1
        self.answered, self._misses, self.assigned = True, 0, 0
        if held := frozenset(loaded.model.name for loaded in reported.models):
            self._held, self._held_time = held, self._clock()
        if before is None:
            _log.info("replica up", stage=self.stage, instance=reported.instance_id)

    def _miss(self, error: TriptychError) -> None:
        self._misses += 1
        if self.last_capacity is not None and self._misses >= _MISSES:
            self.last_capacity = None
            self.changes += 1
            _log.warning("replica down", stage=self.stage, cause=str(error))


def _offer(capacity: Capacity) -> tuple[object, ...]:
    return capacity.draining, capacity.loading, capacity.models
