"""How full a tensor store is, and a cache in it; read whenever somebody asks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.domain.store_control import EntryUsage, StoreControl
from services.observability import metrics
from services.observability.metrics import Reading


@contextmanager
def watched_fullness(store: StoreControl) -> Iterator[None]:
    """Exposes how near a store and its cache are to their limits until the block is left."""

    def used() -> Iterator[Reading]:
        for each in store.fullness():
            yield each.used_bytes, {"store": _scheme(store), "bound": each.bound}

    def limit() -> Iterator[Reading]:
        for each in store.fullness():
            if each.limit_bytes is not None:
                yield each.limit_bytes, {"store": _scheme(store), "bound": each.bound}

    with (
        metrics.STORE_USED_BYTES.watching(used),
        metrics.STORE_LIMIT_BYTES.watching(limit),
        _watched_cache(store),
    ):
        yield


@contextmanager
def _watched_cache(store: StoreControl) -> Iterator[None]:
    def reading(part: Callable[[EntryUsage], int]) -> Callable[[], Iterator[Reading]]:
        def read() -> Iterator[Reading]:
            usage = store.cache_usage()
            if usage is not None:
                yield part(usage), {"store": _scheme(store)}

        return read

    with (
        metrics.CONDITIONING_CACHE_ENTRIES.watching(reading(lambda of: of.count)),
        metrics.CONDITIONING_CACHE_USED_BYTES.watching(reading(lambda of: of.size_bytes)),
        metrics.CONDITIONING_CACHE_LIMIT_BYTES.watching(reading(lambda of: of.limit_bytes)),
    ):
        yield


def _scheme(store: StoreControl) -> str:
    return store.identity.partition(":")[0]
