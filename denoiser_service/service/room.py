"""Which requests the ranks hold at once, and which may join them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, takewhile


class Leaving(StrEnum):
    """Why a request is to leave before its latents are stored."""

    CANCELLED = "cancelled"
    DEADLINE_PASSED = "deadline_passed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One request as admission and the policy see it.

    Attributes:
        arrival: a number that grows with every request.
        resident: whether the ranks hold state for it.
        leaving: why it is to leave; None for a request that stays.
        last_turn: number of the turn it last had, or of the last turn before it arrived.
        size_bytes: what the ranks keep of it, or will.
        done: whether all of its steps are.
        hands_over: whether another denoiser is to go on with it, unless it is done.
        batch_key: equal for requests that can take their next step together; None for those that
            cannot.
    """

    request_id: str
    arrival: int
    resident: bool = False
    leaving: Leaving | None = None
    last_turn: int = 0
    size_bytes: int = 0
    done: bool = False
    hands_over: bool = False
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

    def entering(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those who may become resident, by their arrival.

        No request overtakes one that does not fit yet: residents end, so its turn comes.
        """
        residents = [candidate for candidate in candidates if candidate.resident]
        waiting = sorted(
            (candidate for candidate in candidates if not candidate.resident),
            key=lambda candidate: candidate.arrival,
        )
        held = sum(candidate.size_bytes for candidate in residents)
        held_then = accumulate((candidate.size_bytes for candidate in waiting), initial=held)
        next(held_then)
        places = zip(waiting[: max(0, self.requests - len(residents))], held_then, strict=False)
        limit = self.size_bytes
        fits = takewhile(lambda place: limit is None or place[1] <= limit, places)
        return [candidate for candidate, _ in fits]
