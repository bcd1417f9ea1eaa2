"""Whose turn it is: pure functions over what the scheduler knows, testable without a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, takewhile


class Order(StrEnum):
    """How residents share the ranks.

    FIFO finishes the oldest first, which gives the least mean latency for equal requests;
    ROUND_ROBIN gives every resident a step in turn, so that none waits for another to finish.
    """

    FIFO = "fifo"
    ROUND_ROBIN = "round_robin"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One request as the policy sees it.

    Attributes:
        size_bytes: what the ranks keep of it, or will.
        arrival: a number that grows with every request.
        resident: whether the ranks hold state for it.
        leaving: whether it was cancelled or its deadline passed.
        last_turn: number of the turn it last had, or of the last turn before it arrived.
        done: whether all of its steps are.
        batch_key: equal for requests that can take their next step together; None for those that
            cannot.
    """

    request_id: str
    arrival: int
    resident: bool
    leaving: bool
    last_turn: int
    size_bytes: int = 0
    done: bool = False
    batch_key: str | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What the ranks hold at once.

    Attributes:
        requests: at most so many.
        size_bytes: of all of them together, at most; None for no limit.
    """

    requests: int
    size_bytes: int | None = None


def entering(candidates: Sequence[Candidate], room: Room) -> list[Candidate]:
    """Those who may become resident, by their arrival.

    Nobody overtakes one that does not fit yet: residents end, so its turn comes.
    """
    residents = [each for each in candidates if each.resident]
    waiting = sorted((each for each in candidates if not each.resident), key=_by_arrival)
    taken = accumulate((each.size_bytes for each in waiting), initial=_size_bytes(residents))
    next(taken)
    places = zip(waiting[: max(0, room.requests - len(residents))], taken, strict=False)
    fits = takewhile(lambda place: room.size_bytes is None or place[1] <= room.size_bytes, places)
    return [candidate for candidate, _ in fits]


def next_turn(
    candidates: Sequence[Candidate], order: Order, room: Room, *, batching: bool = False
) -> str | None:
    """The request that gets the next turn, or None when there is nothing to do.

    Those who leave go first: it frees their memory. A request that is not yet resident gets its
    first turn only if there is room for it. Where steps are taken together, those who are done and
    those who enter go before any step: it costs little, and some may join it.
    """
    leaving = [each for each in candidates if each.leaving]
    if leaving:
        return leaving[0].request_id
    residents = [each for each in candidates if each.resident]
    enter = entering(candidates, room)
    eligible = [*residents, *enter]
    if not eligible:
        return None
    if batching:
        eligible = [each for each in residents if each.done] or enter or residents
    key = _by_arrival if order is Order.FIFO else _by_last_turn
    return min(eligible, key=key).request_id


def companions(
    chosen: str, candidates: Sequence[Candidate], order: Order, max_batch: int
) -> tuple[str, ...]:
    """Those who take their next step together with the chosen one, in the order of their turns.

    Args:
        chosen: whose turn it is.
        candidates: all there are.
        order: how residents share the ranks.
        max_batch: how many take a step together at most, the chosen one among them.
    """
    by_id = {each.request_id: each for each in candidates}
    first = by_id.pop(chosen)
    if first.batch_key is None or first.leaving:
        return ()
    alike = [
        each for each in by_id.values() if each.batch_key == first.batch_key and not each.leaving
    ]
    alike.sort(key=_by_arrival if order is Order.FIFO else _by_last_turn)
    return tuple(each.request_id for each in alike[: max_batch - 1])


def _size_bytes(candidates: Sequence[Candidate]) -> int:
    return sum(each.size_bytes for each in candidates)


def _by_arrival(candidate: Candidate) -> tuple[int, int]:
    return (candidate.arrival, 0)


def _by_last_turn(candidate: Candidate) -> tuple[int, int]:
    return (candidate.last_turn, candidate.arrival)
