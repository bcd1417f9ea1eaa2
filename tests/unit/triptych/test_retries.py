"""When a client repeats a call, on a clock of the tests' own."""

import math

import pytest

from triptych.domain.deadline import Deadline
from triptych.domain.failure import Failure
from triptych.errors import TriptychError, error_from
from triptych.retries import Retries

AWAY = error_from(Failure("UNAVAILABLE", "UNAVAILABLE", "away", foreign=True))


def failed(status: str, *, after: float | None = None, foreign: bool = False) -> TriptychError:
    return error_from(
        Failure(status, status, "a sentence", retry_after_seconds=after, foreign=foreign)
    )


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def retries(clock: Clock | None = None, *, left: float = math.inf, drawn: float = 1.0) -> Retries:
    return Retries(Deadline.after(left), now=clock or Clock(), draw=lambda: drawn)


def pauses(given: Retries, error: TriptychError) -> list[float]:
    """Those before it is given up."""
    found: list[float] = []

    def repeat() -> None:
        for _ in range(100):
            found.append(given.pause_seconds(error))  # noqa: PERF401 - those before it raises

    with pytest.raises(type(error)) as last:
        repeat()
    assert last.value is error
    return found


def test_a_call_is_repeated_three_times_after_longer_and_longer_pauses() -> None:
    assert pauses(retries(), AWAY) == [0.25, 0.5, 1.0]


def test_a_pause_is_spread_over_its_second_half() -> None:
    assert pauses(retries(drawn=0.0), AWAY) == [0.125, 0.25, 0.5]


def test_a_pause_is_never_shorter_than_the_cluster_asks_for() -> None:
    assert pauses(retries(), failed("UNAVAILABLE", after=0.75)) == [0.75, 0.75, 1.0]


def test_no_pause_reaches_beyond_the_deadline() -> None:
    assert pauses(retries(left=0.4), AWAY) == [0.25]
    assert pauses(retries(left=10), failed("UNAVAILABLE", after=11)) == []


@pytest.mark.parametrize(
    "error",
    [
        failed("INVALID_ARGUMENT"),
        failed("NOT_FOUND"),
        failed("DEADLINE_EXCEEDED", foreign=True),
        failed("CANCELLED", foreign=True),
        failed("INTERNAL"),
        failed("UNIMPLEMENTED", foreign=True),
        failed("RESOURCE_EXHAUSTED", after=1),
    ],
    ids=lambda error: error.failure.status,
)
def test_what_would_fail_again_is_not_repeated(error: TriptychError) -> None:
    assert pauses(retries(), error) == []


@pytest.mark.parametrize("status", ["INTERNAL", "UNKNOWN"])
def test_a_stream_that_a_proxy_cut_counts_as_broken(status: str) -> None:
    assert len(pauses(retries(), failed(status, foreign=True))) == 3


def test_a_stream_is_given_up_when_it_got_no_further_for_a_minute() -> None:
    clock = Clock()
    given = retries(clock)
    given.advanced()
    waited = 0.0
    while waited < 59:
        pause = given.pause_seconds(AWAY)
        assert pause <= 5
        waited += pause
        clock.seconds += pause
    clock.seconds += 5
    with pytest.raises(TriptychError, match="away"):
        given.pause_seconds(AWAY)


def test_a_stream_that_gets_further_has_all_its_tries_again() -> None:
    clock = Clock()
    given = retries(clock)
    given.advanced()
    for _ in range(10):
        clock.seconds += 50
        assert given.pause_seconds(AWAY) == 0.25
        given.advanced()


def test_who_goes_on_waits_for_a_cluster_that_is_full() -> None:
    given = retries()
    given.advanced()
    assert given.pause_seconds(failed("RESOURCE_EXHAUSTED", after=2)) == 2
    with pytest.raises(TriptychError):
        given.pause_seconds(failed("RESOURCE_EXHAUSTED"))
