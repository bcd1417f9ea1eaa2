"""How full a tensor store is, read whenever somebody asks."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from services.domain.store_control import StoreControl
from services.observability import metrics
from services.observability.metrics import Reading


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


def _scheme(store: StoreControl) -> str:
    return store.identity.partition(":")[0]
