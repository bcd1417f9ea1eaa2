from collections.abc import Callable

from services.domain.store_control import Bound, EntryUsage, Fullness
from services.observability.fullness import watched_fullness
from tests.unit.rpc.scripted_store import ScriptedStore

Recorded = Callable[[str], dict[frozenset[tuple[str, str]], float]]


def bound(name: str) -> frozenset[tuple[str, str]]:
    return frozenset({("store", "shm"), ("bound", name)})


def test_a_store_is_watched_against_each_of_its_limits_and_what_has_none_has_no_limit(
    recorded: Recorded,
) -> None:
    store = ScriptedStore()
    store.full = (Fullness(Bound.QUOTA, 3, 8), Fullness(Bound.SERVER, 5, None))
    with watched_fullness(store):
        assert recorded("triptych.store.used") == {bound("quota"): 3, bound("server"): 5}
        assert recorded("triptych.store.limit") == {bound("quota"): 8}
    assert recorded("triptych.store.used") == {}


def test_what_a_conditioning_cache_holds_is_watched_as_it_changes(recorded: Recorded) -> None:
    store = ScriptedStore()
    store.cached = EntryUsage(count=2, size_bytes=3, limit_bytes=8)
    here = frozenset({("store", "shm")})
    with watched_fullness(store):
        assert recorded("triptych.conditioning.cache.entries") == {here: 2}
        assert recorded("triptych.conditioning.cache.used") == {here: 3}
        assert recorded("triptych.conditioning.cache.limit") == {here: 8}
        store.cached = EntryUsage(count=1, size_bytes=2, limit_bytes=8)
        assert recorded("triptych.conditioning.cache.entries") == {here: 1}
    assert recorded("triptych.conditioning.cache.used") == {}


def test_of_a_conditioning_cache_that_nobody_has_looked_at_nothing_is_said(
    recorded: Recorded,
) -> None:
    with watched_fullness(ScriptedStore()):
        assert recorded("triptych.conditioning.cache.entries") == {}
