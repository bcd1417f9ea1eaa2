"""Whose turn it is: pure functions over what the scheduler knows, testable without a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


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
        arrival: a number that grows with every request.
        resident: whether the ranks hold state for it.
        leaving: whether it was cancelled or its deadline passed.
        last_turn: number of the turn it last had, or of the last turn before it arrived.
    """

    request_id: str
    arrival: int
    resident: bool
    leaving: bool
    last_turn: int


def next_turn(candidates: Sequence[Candidate], order: Order, max_resident: int) -> str | None:
    """The request that gets the next turn, or None when there is nothing to do.

    Those who leave go first: it frees their memory. A request that is not yet resident gets its
    first turn only while fewer than `max_resident` are.
    """
    leaving = [each for each in candidates if each.leaving]
    if leaving:
        return leaving[0].request_id
    residents = [each for each in candidates if each.resident]
    waiting = [each for each in candidates if not each.resident]
    entering = sorted(waiting, key=_by_arrival)[: max(0, max_resident - len(residents))]
    eligible = [*residents, *entering]
    if not eligible:
        return None
    key = _by_arrival if order is Order.FIFO else _by_last_turn
    return min(eligible, key=key).request_id


def _by_arrival(candidate: Candidate) -> tuple[int, int]:
    return (candidate.arrival, 0)


def _by_last_turn(candidate: Candidate) -> tuple[int, int]:
    return (candidate.last_turn, candidate.arrival)
