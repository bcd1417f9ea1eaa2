"""Pauses between the lives of a process."""

from hypothesis import given
from hypothesis import strategies as st

from triptych.cluster.backoff import Backoff


def test_pauses_double_up_to_the_limit() -> None:
    backoff = Backoff(first_seconds=0.5, limit_seconds=3)
    assert [backoff.after(1) for _ in range(5)] == [0.5, 1, 2, 3, 3]
    assert backoff.failures == 5


def test_long_life_is_forgiven_what_came_before() -> None:
    backoff = Backoff(first_seconds=0.5, healthy_seconds=30)
    for _ in range(4):
        backoff.after(1)
    assert backoff.after(30) == 0.5
    assert backoff.after(1) == 1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=2000))
def test_pause_is_never_above_the_limit_nor_below_the_first(lifetimes: list[float]) -> None:
    backoff = Backoff(first_seconds=0.5, limit_seconds=30)
    assert all(0.5 <= backoff.after(lifetime) <= 30 for lifetime in lifetimes)
