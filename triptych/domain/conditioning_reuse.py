"""What of a conditioning was read from a cache rather than encoded."""

from collections.abc import Iterable
from dataclasses import dataclass

from triptych.domain.open_enum import OpenEnum


class ConditioningPart(OpenEnum):
    """A kind of what is encoded, and looked up, by itself."""

    PROMPT = "prompt"
    NEGATIVE_PROMPT = "negative_prompt"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class ConditioningReuse:
    """How much of one kind was looked up, and how much of it was there.

    Attributes:
        looked_up: at least 1.
        reused: 0 to looked_up; the others were encoded.
    """

    part: ConditioningPart
    looked_up: int
    reused: int


def summed(reuse: Iterable[ConditioningReuse]) -> tuple[ConditioningReuse, ...]:
    """One of each kind, in the order of ConditioningPart."""
    given = tuple(reuse)
    kinds = {part: [each for each in given if each.part is part] for part in ConditioningPart}
    return tuple(
        ConditioningReuse(
            part,
            looked_up=sum(each.looked_up for each in these),
            reused=sum(each.reused for each in these),
        )
        for part, these in kinds.items()
        if these
    )
