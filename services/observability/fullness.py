"""How full a tensor store is, and a cache in it; read whenever somebody asks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Protocol

from services.domain.errors import Unavailable
from services.domain.store_control import StoreControl
from services.observability import metrics
from services.observability.metrics import Reading


class EntryUsage(Protocol):
    """How full a cache is."""

    @property
    def count(self) -> int:
        """Entries."""
        ...

    @property
    def size_bytes(self) -> int:
        """Of all entries."""
        ...

    @property
    def limit_bytes(self) -> int:
        """What they may have together."""
        ...


@contextmanager
def watched_fullness(store: StoreControl) -> Iterator[None]:
    """Exposes how near a store is to its limits until the block is left."""

    def used() -> Iterator[Reading]:
        for each in store.fullness():
            yield each.used_bytes, {"store": _scheme(store), "bound": each.bound}

    def limit() -> Iterator[Reading]:
        for each in store.fullness():
            if each.limit_bytes is not None:
                yield each.limit_bytes, {"store": _scheme(store), "bound": each.bound}

    with ExitStack() as exits:
        exits.enter_context(metrics.STORE_USED_BYTES.watching(used))
        exits.enter_context(metrics.STORE_LIMIT_BYTES.watching(limit))
        yield


@contextmanager
def watched_entries(store: StoreControl, usage: Callable[[], EntryUsage]) -> Iterator[None]:
    """Exposes what the conditioning cache holds until the block is left.

    Args:
        store: where its entries are.
        usage: asked from whichever thread; nothing is said while it raises Unavailable.
    """

    def reading(part: Callable[[EntryUsage], int]) -> Callable[[], Iterator[Reading]]:
        def read() -> Iterator[Reading]:
            with suppress(Unavailable):
                yield part(usage()), {"store": _scheme(store)}

        return read

    with (
        metrics.CONDITIONING_CACHE_ENTRIES.watching(reading(lambda of: of.count)),
        metrics.CONDITIONING_CACHE_USED_BYTES.watching(reading(lambda of: of.size_bytes)),
        metrics.CONDITIONING_CACHE_LIMIT_BYTES.watching(reading(lambda of: of.limit_bytes)),
    ):
        yield


def _scheme(store: StoreControl) -> str:
    return store.identity.partition(":")[0]
