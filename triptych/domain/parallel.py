"""How one denoising step may be spread over several ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from annotated_types import Interval

from triptych.domain.errors import FieldViolation
from triptych.domain.open_enum import OpenEnum


class ParallelMethod(OpenEnum):
    """A way to spread one denoising step over ranks."""

    ULYSSES = "ulysses"
    RING = "ring"
    CFG = "cfg"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSupport:
    """How a model's steps can be spread over ranks.

    Attributes:
        methods: those it has been shown to be exact with.
        attention_heads: that an attention can be split by; where keys have fewer, those.
        guidance_branches: that a step may have at most.
    """

    methods: tuple[ParallelMethod, ...] = ()
    attention_heads: int = 1
    guidance_branches: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelDegrees:
    """Over how many ranks each method spreads a step; their product is the ranks of a group.

    Attributes:
        cfg: guidance branches that run at the same time.
        ring: parts of the sequence whose keys and values go round.
        ulysses: parts of the sequence that are exchanged for attention heads.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    cfg: Annotated[int, Interval(ge=1)] = 1
    ring: Annotated[int, Interval(ge=1)] = 1
    ulysses: Annotated[int, Interval(ge=1)] = 1

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return self.cfg * self.sequence

    @property
    def sequence(self) -> int:
        """How many ranks share one sequence."""
        return self.ring * self.ulysses

    @property
    def without_cfg(self) -> ParallelDegrees:
        """As many ranks for a request that has one branch: more of them in the ring."""
        return ParallelDegrees(ring=self.cfg * self.ring, ulysses=self.ulysses)

    def violations(self, support: ParallelSupport) -> Iterator[FieldViolation]:
        """What a model cannot be spread by; fields are those of this class."""
        for method in ParallelMethod:
            degree = getattr(self, method.value)
            if degree > 1 and method not in support.methods:
                allowed = ", ".join(support.methods) or "none"
                yield FieldViolation(
                    method.value, f"is {degree}; the model's parallel methods are: {allowed}"
                )
        if support.attention_heads % self.ulysses:
            heads = support.attention_heads
            valid = [each for each in range(1, heads + 1) if heads % each == 0]
            yield FieldViolation(
                "ulysses",
                f"is {self.ulysses}; allowed are divisors of the model's {heads} attention heads:"
                f" {', '.join(map(str, valid))}",
            )
        if ParallelMethod.CFG in support.methods and self.cfg > support.guidance_branches:
            yield FieldViolation(
                "cfg",
                f"is {self.cfg}; the model's guidance has at most"
                f" {support.guidance_branches} branches",
            )


ONE_RANK: Final = ParallelDegrees()
ONE_RANK_ONLY: Final = ParallelSupport()
