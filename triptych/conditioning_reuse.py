"""What of a request's conditioning was read from a cache rather than encoded."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditioningReuse:
    """How much of one kind was looked up, and how much of it was there.

    Attributes:
        part: "prompt", "negative_prompt" or "image".
        looked_up: at least 1.
        reused: 0 to looked_up; the others were encoded.
    """

    part: str
    looked_up: int
    reused: int
