"""What a cache decided and did."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BranchDecision:
    """What a cache decided for one guidance branch in one step.

    Attributes:
        branch: for example "cond".
        reused: whether blocks were skipped.
        signal: what the method looked at (a relative distance); None where it looked at nothing.
    """

    branch: str
    reused: bool
    signal: float | None


@dataclass(frozen=True, slots=True)
class BranchStatistics:
    """What caching did for one guidance branch over a whole request, in forwards.

    Attributes:
        branch: for example "cond".
    """

    branch: str
    computed_forwards: int
    reused_forwards: int


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What caching did over a whole request, and what that gained in its denoising loop.

    Attributes:
        branches: each at least one forward.
        estimated_speedup: 1 / (1 - r * (1 - f)), with r the reused share and f the share of the
            blocks that are computed even in a reused forward.
        realised_speedup: the median seconds of steps that reused nothing, times all steps, over the
            seconds all steps took; None where every step reused something.
    """

    branches: tuple[BranchStatistics, ...]
    estimated_speedup: float | None
    realised_speedup: float | None

    @property
    def computed_forwards(self) -> int:
        """Of all branches."""
        return sum(branch.computed_forwards for branch in self.branches)

    @property
    def reused_forwards(self) -> int:
        """Of all branches."""
        return sum(branch.reused_forwards for branch in self.branches)

    @property
    def reused_share(self) -> float:
        """Of all forwards, 0 to 1: the skipped share."""
        return self.reused_forwards / (self.computed_forwards + self.reused_forwards)


def joined(statistics: Sequence[CacheStatistics | None]) -> CacheStatistics | None:
    """What caching did over several loops: counts add up, and speed-ups are the loops' means."""
    known = [each for each in statistics if each is not None]
    if len(known) < 2:
        return known[0] if known else None
    branches: dict[str, BranchStatistics] = {}
    for branch in (branch for each in known for branch in each.branches):
        so_far = branches.get(branch.branch, BranchStatistics(branch.branch, 0, 0))
        branches[branch.branch] = BranchStatistics(
            branch.branch,
            so_far.computed_forwards + branch.computed_forwards,
            so_far.reused_forwards + branch.reused_forwards,
        )
    return CacheStatistics(
        tuple(branches.values()),
        _mean([each.estimated_speedup for each in known]),
        _mean([each.realised_speedup for each in known]),
    )


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known else None
