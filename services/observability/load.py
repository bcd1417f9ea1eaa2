"""How busy a stage is, read whenever somebody asks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from services.domain.stages import Capacity
from services.observability import metrics
from services.observability.metrics import Reading
from services.observability.tracked import UNKNOWN


@contextmanager
def watched_load(read: Callable[[], Capacity]) -> Iterator[None]:
    """Exposes a replica's load until the block is left.

    Args:
        read: what it holds and how busy it is; called from other threads.
    """
    load = _Load(read)
    with ExitStack() as exits:
        exits.enter_context(metrics.QUEUED_REQUESTS.watching(load.queued))
        exits.enter_context(metrics.QUEUE_LIMIT.watching(load.queue_limit))
        exits.enter_context(metrics.RESIDENT_REQUESTS.watching(load.resident))
        exits.enter_context(metrics.RANKS_READY.watching(load.ranks_ready))
        exits.enter_context(metrics.RANK_RESTARTS.watching(load.rank_restarts))
        exits.enter_context(metrics.BACKLOG_SECONDS.watching(load.backlog))
        exits.enter_context(metrics.HELD_BYTES.watching(load.held))
        exits.enter_context(metrics.RESERVED_BYTES.watching(load.reserved))
        exits.enter_context(metrics.RESIDENT_LIMIT_BYTES.watching(load.resident_limit))
        yield


class _Load:
    """Remembers what the replica held: ranks that are being rebuilt hold nothing."""

    def __init__(self, read: Callable[[], Capacity]) -> None:
        self._capacity = read
        self._model = UNKNOWN

    def queued(self) -> Iterator[Reading]:
        capacity = self._read()
        yield capacity.queued_requests, self._stage(capacity)

    def queue_limit(self) -> Iterator[Reading]:
        capacity = self._read()
        yield capacity.max_queued_requests, self._stage(capacity)

    def resident(self) -> Iterator[Reading]:
        capacity = self._read()
        yield capacity.running_requests, self._stage(capacity)

    def ranks_ready(self) -> Iterator[Reading]:
        capacity = self._read()
        if (group := capacity.rank_group) is not None:
            yield group.ranks if capacity.models else 0, {"model": self._model}

    def rank_restarts(self) -> Iterator[Reading]:
        if (group := self._read().rank_group) is not None:
            # The first generation is no restart; before it there is none.
            yield max(group.generation - 1, 0), {"model": self._model}

    def backlog(self) -> Iterator[Reading]:
        if (group := self._read().rank_group) is not None:
            yield group.backlog_seconds, {"model": self._model}

    def held(self) -> Iterator[Reading]:
        if (group := self._read().rank_group) is not None:
            yield group.held_bytes, {"model": self._model}

    def reserved(self) -> Iterator[Reading]:
        if (group := self._read().rank_group) is not None:
            yield group.reserved_bytes, {"model": self._model}

    def resident_limit(self) -> Iterator[Reading]:
        group = self._read().rank_group
        if group is not None and group.max_resident_bytes is not None:
            yield group.max_resident_bytes, {"model": self._model}

    def _read(self) -> Capacity:
        capacity = self._capacity()
        if capacity.models:
            self._model = capacity.models[0].model.name
        return capacity

    def _stage(self, capacity: Capacity) -> Mapping[str, str]:
        return {"stage": capacity.stage, "model": self._model}
