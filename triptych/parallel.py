"""How a request's denoising steps were spread over ranks."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelDegrees:
    """Over how many ranks each method spread a step.

    Attributes:
        ulysses: parts of the sequence that were exchanged for attention heads.
        ring: parts of the sequence whose keys and values went round.
        cfg: guidance branches that ran at the same time.
    """

    ulysses: int = 1
    ring: int = 1
    cfg: int = 1

    @property
    def ranks(self) -> int:
        """How many worked together."""
        return self.ulysses * self.ring * self.cfg


ONE_RANK: Final = ParallelDegrees()
