from collections.abc import Callable

from services.domain.store_control import Bound, Fullness
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
