from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoiser_service.service.policy import Candidate, Order, Room, companions, entering, next_turn

FIFO, ROUND_ROBIN = Order.FIFO, Order.ROUND_ROBIN
both_orders = pytest.mark.parametrize("order", list(Order))


def _candidate(
    arrival: int,
    *,
    resident: bool = False,
    leaving: bool = False,
    last_turn: int = 0,
    size_bytes: int = 0,
    done: bool = False,
    batch_key: str | None = None,
) -> Candidate:
    return Candidate(
        f"r{arrival}", arrival, resident, leaving, last_turn, size_bytes, done, batch_key
    )


class _Loop:
    """The bookkeeping of a scheduler, without one."""

    def __init__(self, order: Order, max_resident: int, steps: Sequence[int]) -> None:
        self.turns: list[str] = []
        self._order = order
        self._max_resident = max_resident
        self._left = {f"r{arrival}": count for arrival, count in enumerate(steps)}
        self._arrivals = {name: arrival for arrival, name in enumerate(self._left)}
        self._last_turns = dict.fromkeys(self._left, 0)
        self.residents: set[str] = set()

    def candidates(self) -> list[Candidate]:
        return [
            Candidate(
                name, self._arrivals[name], name in self.residents, False, self._last_turns[name]
            )
            for name in self._left
        ]

    def turn(self) -> str | None:
        chosen = next_turn(self.candidates(), self._order, Room(self._max_resident))
        if chosen is None:
            return None
        self.turns.append(chosen)
        self._last_turns[chosen] = len(self.turns)
        self.residents.add(chosen)
        self._left[chosen] -= 1
        if self._left[chosen] == 0:
            del self._left[chosen]
            self.residents.remove(chosen)
        return chosen


@both_orders
def test_nobody_means_nothing_to_do(order: Order) -> None:
    assert next_turn([], order, Room(4)) is None


@both_orders
def test_who_leaves_goes_first(order: Order) -> None:
    candidates = [
        _candidate(1, resident=True, last_turn=3),
        _candidate(2, resident=True, last_turn=9, leaving=True),
        _candidate(3),
    ]
    assert next_turn(candidates, order, Room(1)) == "r2"


@both_orders
def test_who_leaves_from_the_queue_needs_no_room(order: Order) -> None:
    candidates = [_candidate(1, resident=True, last_turn=3), _candidate(2, leaving=True)]
    assert next_turn(candidates, order, Room(1)) == "r2"


@both_orders
def test_a_full_house_admits_nobody(order: Order) -> None:
    candidates = [_candidate(1), _candidate(2, resident=True, last_turn=5)]
    assert next_turn(candidates, order, Room(1)) == "r2"


def test_the_oldest_finishes_first_in_fifo() -> None:
    loop = _Loop(FIFO, 4, [2, 1, 3])
    while loop.turn():
        pass
    assert loop.turns == ["r0", "r0", "r1", "r2", "r2", "r2"]


def test_residents_take_turns_in_round_robin() -> None:
    loop = _Loop(ROUND_ROBIN, 2, [3, 3, 2])
    while loop.turn():
        pass
    assert loop.turns == ["r0", "r1", "r0", "r1", "r0", "r2", "r1", "r2"]


@both_orders
def test_a_large_request_waits_for_room_and_nobody_overtakes_it(order: Order) -> None:
    resident = _candidate(1, resident=True, last_turn=9, size_bytes=6)
    large, small = _candidate(2, size_bytes=5), _candidate(3, size_bytes=1)
    room = Room(4, size_bytes=10)
    assert entering([resident, large, small], room) == []
    assert next_turn([resident, large, small], order, room) == "r1"
    assert entering([large, small], room) == [large, small]
    assert next_turn([large, small], order, room) == "r2"


def test_room_is_for_the_oldest_and_up_to_the_last_byte() -> None:
    waiting = [_candidate(arrival, size_bytes=4) for arrival in (3, 1, 2)]
    assert [each.arrival for each in entering(waiting, Room(4, size_bytes=8))] == [1, 2]
    assert [each.arrival for each in entering(waiting, Room(4, size_bytes=12))] == [1, 2, 3]
    assert [each.arrival for each in entering(waiting, Room(1, size_bytes=12))] == [1]
    assert [each.arrival for each in entering(waiting, Room(2))] == [1, 2]


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=8),
    st.integers(1, 5),
    st.integers(9, 30),
)
def test_residents_and_those_who_enter_stay_within_the_room(
    sizes: list[tuple[bool, int]], requests: int, size_bytes: int
) -> None:
    all_of_them = [
        _candidate(arrival, resident=resident, size_bytes=size)
        for arrival, (resident, size) in enumerate(sizes)
    ]
    enter = entering(all_of_them, Room(requests, size_bytes))
    residents = [each for each in all_of_them if each.resident]
    if enter:
        assert len(residents) + len(enter) <= requests
        assert sum(each.size_bytes for each in [*residents, *enter]) <= size_bytes
    elif not residents:
        # Each fits by itself, so the oldest of them gets in.
        assert not all_of_them


@both_orders
def test_where_steps_are_taken_together_who_is_done_and_who_enters_goes_before_any_step(
    order: Order,
) -> None:
    stepping = _candidate(1, resident=True, batch_key="k")
    done = _candidate(2, resident=True, last_turn=9, done=True)
    waiting, late = _candidate(3, last_turn=9), _candidate(4, last_turn=9)
    turns = []
    left = [stepping, done, waiting, late]
    while left:
        turns.append(next_turn(left, order, Room(3), batching=True))
        left = [each for each in left if each.request_id != turns[-1]]
    assert turns == ["r2", "r3", "r4", "r1"]
    assert next_turn([stepping, waiting], order, Room(1), batching=True) == "r1"


def _resident(arrival: int, key: str | None, last_turn: int, **more: Any) -> Candidate:
    return _candidate(arrival, resident=True, batch_key=key, last_turn=last_turn, **more)


def test_a_step_is_shared_by_those_of_the_same_key_in_the_order_of_their_turns() -> None:
    all_of_them = [
        _resident(1, "k", 5),
        _resident(2, "other", 1),
        _resident(3, "k", 2),
        _resident(4, None, 3),
        _resident(5, "k", 1, leaving=True),
        _resident(6, "k", 1),
    ]
    assert companions("r1", all_of_them, FIFO, 8) == ("r3", "r6")
    assert companions("r1", all_of_them, ROUND_ROBIN, 8) == ("r6", "r3")
    assert companions("r1", all_of_them, FIFO, 2) == ("r3",)
    for alone in ("r2", "r4", "r5"):
        assert companions(alone, all_of_them, FIFO, 8) == ()
    assert companions("r1", all_of_them, FIFO, 1) == ()


steps = st.lists(st.integers(1, 6), max_size=8)
orders = st.sampled_from(Order)


@given(orders, st.integers(1, 5), steps)
def test_no_more_than_so_many_are_ever_resident_and_all_are_served(
    order: Order, max_resident: int, counts: list[int]
) -> None:
    loop = _Loop(order, max_resident, counts)
    while loop.turn():
        assert len(loop.residents) <= max_resident
    for arrival, count in enumerate(counts):
        assert loop.turns.count(f"r{arrival}") == count


@given(st.integers(1, 5), st.lists(st.integers(2, 6), max_size=8))
def test_round_robin_lets_no_resident_wait_for_long(max_resident: int, counts: list[int]) -> None:
    loop = _Loop(ROUND_ROBIN, max_resident, counts)
    while loop.turn():
        for name in loop.residents:
            since = loop.turns[len(loop.turns) - loop.turns[::-1].index(name) :]
            # Each place beside it may see the last turn of one and the first of the next.
            assert len(since) <= 2 * (max_resident - 1)


@given(st.integers(1, 5), steps)
def test_fifo_serves_in_the_order_of_arrival(max_resident: int, counts: list[int]) -> None:
    loop = _Loop(FIFO, max_resident, counts)
    while loop.turn():
        pass
    assert loop.turns == sorted(loop.turns)


candidates = st.lists(
    st.builds(
        _candidate,
        st.integers(0, 99),
        resident=st.booleans(),
        leaving=st.booleans(),
        last_turn=st.integers(0, 99),
    ),
    unique_by=lambda each: each.arrival,
)


@given(candidates, orders, st.integers(1, 4))
def test_whoever_is_chosen_was_a_candidate_with_a_right_to_it(
    given_candidates: list[Candidate], order: Order, max_resident: int
) -> None:
    chosen = next_turn(given_candidates, order, Room(max_resident))
    by_id = {each.request_id: each for each in given_candidates}
    if chosen is None:
        assert not given_candidates
    elif any(each.leaving for each in given_candidates):
        assert by_id[chosen].leaving
    elif not by_id[chosen].resident:
        assert sum(each.resident for each in given_candidates) < max_resident
        waiting = [each.arrival for each in given_candidates if not each.resident]
        if order is FIFO:
            assert by_id[chosen].arrival == min(waiting)
