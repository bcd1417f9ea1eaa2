from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoiser_service.service.policy import (
    Drop,
    Finish,
    HandOver,
    Order,
    Policy,
    Prepare,
    Step,
    Turn,
    concerned,
)
from denoiser_service.service.room import Candidate, Leaving, Room

FIFO, ROUND_ROBIN = Order.FIFO, Order.ROUND_ROBIN
both_orders = pytest.mark.parametrize("order", list(Order))


def _candidate(arrival: int, **more: Any) -> Candidate:
    return Candidate(f"r{arrival}", arrival, **more)


def _turn(
    candidates: Sequence[Candidate],
    order: Order = FIFO,
    room: Room = Room(4),  # noqa: B008 - it never changes
    max_batch: int = 1,
) -> Turn | None:
    return Policy(order, room, max_batch).next_turn(candidates)


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
            _candidate(
                self._arrivals[name],
                resident=name in self.residents,
                last_turn=self._last_turns[name],
            )
            for name in self._left
        ]

    def turn(self) -> str | None:
        turn = _turn(self.candidates(), self._order, Room(self._max_resident))
        if turn is None:
            return None
        (chosen,) = concerned(turn)
        assert isinstance(turn, Step if chosen in self.residents else Prepare)
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
    assert _turn([], order) is None


@both_orders
def test_who_leaves_goes_first(order: Order) -> None:
    candidates = [
        _candidate(1, resident=True, last_turn=3),
        _candidate(2, resident=True, last_turn=9, leaving=Leaving.CANCELLED),
        _candidate(3),
    ]
    assert _turn(candidates, order, Room(1)) == Drop("r2", Leaving.CANCELLED)


@both_orders
def test_who_leaves_from_the_queue_needs_no_room(order: Order) -> None:
    late = _candidate(2, leaving=Leaving.DEADLINE_PASSED)
    candidates = [_candidate(1, resident=True, last_turn=3), late]
    assert _turn(candidates, order, Room(1)) == Drop("r2", Leaving.DEADLINE_PASSED)


@both_orders
def test_who_is_handed_over_follows_those_who_leave_resident_or_not(order: Order) -> None:
    stays = _candidate(1, resident=True)
    for handed_over in (
        _candidate(2, resident=True, last_turn=9, hands_over=True),
        _candidate(3, hands_over=True),
    ):
        candidates = [stays, handed_over, _candidate(4, leaving=Leaving.CANCELLED)]
        assert _turn(candidates, order, Room(1)) == Drop("r4", Leaving.CANCELLED)
        assert _turn(candidates[:2], order, Room(1)) == HandOver(handed_over.request_id)


@both_orders
def test_who_is_done_is_finished_rather_than_handed_over(order: Order) -> None:
    done = _candidate(1, resident=True, done=True, hands_over=True)
    assert _turn([done], order) == Finish("r1")


@both_orders
def test_a_full_house_admits_nobody(order: Order) -> None:
    candidates = [_candidate(1), _candidate(2, resident=True, last_turn=5)]
    assert _turn(candidates, order, Room(1)) == Step(("r2",))


@both_orders
def test_a_request_whose_steps_are_done_is_finished(order: Order) -> None:
    candidates = [_candidate(1, resident=True, done=True)]
    assert _turn(candidates, order, Room(1)) == Finish("r1")


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
    assert room.entering([resident, large, small]) == []
    assert _turn([resident, large, small], order, room) == Step(("r1",))
    assert room.entering([large, small]) == [large, small]
    assert _turn([large, small], order, room) == Prepare("r2")


def test_room_is_for_the_oldest_and_up_to_the_last_byte() -> None:
    waiting = [_candidate(arrival, size_bytes=4) for arrival in (3, 1, 2)]
    assert [each.arrival for each in Room(4, size_bytes=8).entering(waiting)] == [1, 2]
    assert [each.arrival for each in Room(4, size_bytes=12).entering(waiting)] == [1, 2, 3]
    assert [each.arrival for each in Room(1, size_bytes=12).entering(waiting)] == [1]
    assert [each.arrival for each in Room(2).entering(waiting)] == [1, 2]


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
    enter = Room(requests, size_bytes).entering(all_of_them)
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
    turns: list[Turn | None] = []
    left = [stepping, done, waiting, late]
    while left:
        turn = _turn(left, order, Room(3), max_batch=4)
        assert turn is not None
        turns.append(turn)
        left = [each for each in left if each.request_id not in concerned(turn)]
    assert turns == [Finish("r2"), Prepare("r3"), Prepare("r4"), Step(("r1",))]
    assert _turn([stepping, waiting], order, Room(1), max_batch=4) == Step(("r1",))


def _resident(arrival: int, key: str | None, last_turn: int, **more: Any) -> Candidate:
    return _candidate(arrival, resident=True, batch_key=key, last_turn=last_turn, **more)


def test_a_step_is_shared_by_those_of_the_same_key_in_the_order_of_their_turns() -> None:
    first, third, sixth = _resident(1, "k", 0), _resident(3, "k", 2), _resident(6, "k", 1)
    others = [_resident(2, "other", 3), _resident(4, None, 3), _candidate(7)]
    all_of_them = [first, third, sixth, *others]
    room = Room(5)
    assert _turn(all_of_them, FIFO, room, 8) == Step(("r1", "r3", "r6"))
    assert _turn(all_of_them, ROUND_ROBIN, room, 8) == Step(("r1", "r6", "r3"))
    assert _turn(all_of_them, FIFO, room, 2) == Step(("r1", "r3"))
    assert _turn(all_of_them, FIFO, room, 1) == Step(("r1",))
    assert _turn(others, FIFO, Room(2), 8) == Step(("r2",))
    assert _turn(others[1:], FIFO, Room(1), 8) == Step(("r4",))


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
        leaving=st.none() | st.sampled_from(Leaving),
        last_turn=st.integers(0, 99),
    ),
    unique_by=lambda each: each.arrival,
)


@given(candidates, orders, st.integers(1, 4))
def test_whoever_is_chosen_was_a_candidate_with_a_right_to_it(
    given_candidates: list[Candidate], order: Order, max_resident: int
) -> None:
    turn = _turn(given_candidates, order, Room(max_resident))
    by_id = {each.request_id: each for each in given_candidates}
    if turn is None:
        assert not given_candidates
        return
    (chosen,) = concerned(turn)
    if any(each.leaving for each in given_candidates):
        assert isinstance(turn, Drop)
        assert by_id[chosen].leaving is turn.reason
    elif isinstance(turn, Prepare):
        assert not by_id[chosen].resident
        assert sum(each.resident for each in given_candidates) < max_resident
        waiting = [each.arrival for each in given_candidates if not each.resident]
        if order is FIFO:
            assert by_id[chosen].arrival == min(waiting)
    else:
        assert isinstance(turn, Step)
        assert by_id[chosen].resident
