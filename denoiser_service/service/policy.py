"""What the ranks do next: a pure function over the requests, testable without a cluster."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from denoiser_service.service.room import Candidate, Leaving, Room


class Order(StrEnum):
    """How residents share the ranks.

    FIFO finishes the oldest first, which gives the least mean latency for equal requests;
    ROUND_ROBIN gives every resident a step in turn, so that none waits for another to finish.
    """

    FIFO = "fifo"
    ROUND_ROBIN = "round_robin"


@dataclass(frozen=True, slots=True)
class Prepare:
    """The ranks take a request in."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Step:
    """One request takes a step, or several take it together, in the order of their turns."""

    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The ranks store a request's latents and forget it."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Drop:
    """A request leaves with what was done for it, for a reason."""

    request_id: str
    reason: Leaving


@dataclass(frozen=True, slots=True)
class HandOver:
    """A request leaves with its checkpoint, for another denoiser to go on."""

    request_id: str


Turn = Prepare | Step | Finish | Drop | HandOver


def concerned(turn: Turn) -> tuple[str, ...]:
    """The requests that have this turn."""
    return turn.request_ids if isinstance(turn, Step) else (turn.request_id,)


@dataclass(frozen=True, slots=True)
class Policy:
    """Decides one turn after the other.

    Attributes:
        order: how residents share the ranks.
        room: what the ranks hold at once.
        max_batch: requests that may take a step together; 1 where every step is taken alone.
    """

    order: Order
    room: Room
    max_batch: int = 1

    def next_turn(self, candidates: Sequence[Candidate]) -> Turn | None:
        """The next turn, whole; None when there is nothing to do.

        Requests that leave go first: that frees their memory. Those that are handed over follow,
        whether the ranks hold them or not. A waiting request is prepared only if the ranks have
        room for it. Where steps are taken together, requests that are done and
        requests that enter go before any step: that costs little, and some may join the step.
        """
        if (leaves := next(_leaves(candidates), None)) is not None:
            return leaves
        residents = [candidate for candidate in candidates if candidate.resident]
        entering = self.room.entering(candidates)
        eligible = [*residents, *entering]
        if self.max_batch > 1:
            done = [candidate for candidate in residents if candidate.done]
            eligible = done or entering or residents
        if not eligible:
            return None
        chosen = min(eligible, key=self._place)
        if not chosen.resident:
            return Prepare(chosen.request_id)
        if chosen.done:
            return Finish(chosen.request_id)
        return Step((chosen.request_id, *self._companions(chosen, residents)))

    def _companions(self, chosen: Candidate, residents: Sequence[Candidate]) -> list[str]:
        """Those who take their next step together with the chosen one."""
        if chosen.batch_key is None:
            return []
        alike = [
            candidate
            for candidate in residents
            if candidate.batch_key == chosen.batch_key and candidate is not chosen
        ]
        alike.sort(key=self._place)
        return [candidate.request_id for candidate in alike[: self.max_batch - 1]]

    def _place(self, candidate: Candidate) -> tuple[int, int]:
        """Where a request stands in line; the lowest comes first."""
        if self.order is Order.FIFO:
            return candidate.arrival, 0
        return candidate.last_turn, candidate.arrival


def _leaves(candidates: Sequence[Candidate]) -> Iterator[Turn]:
    for candidate in candidates:
        if candidate.leaving is not None:
            yield Drop(candidate.request_id, candidate.leaving)
    for candidate in candidates:
        if candidate.hands_over and not candidate.done:
            yield HandOver(candidate.request_id)
