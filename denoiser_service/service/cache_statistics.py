"""What a request's cache did and gained, from what its steps said."""

import statistics
from collections.abc import Sequence

from triptych.domain.acceleration import Cache, CacheDit, CacheSupport
from triptych.domain.cache_statistics import BranchStatistics, CacheStatistics
from triptych.domain.events import StepCompleted


def cache_statistics(steps: Sequence[StepCompleted], always_computed: float) -> CacheStatistics:
    """Counts over a whole request, and the two speed-ups of its loop.

    The estimate is 1 / (1 - r * (1 - f)), with r the reused share of the forwards and f the
    share of a forward that is computed all the same. The realised one compares with the same loop
    without reuse: the median seconds of the steps that reused nothing, times all steps, over the
    seconds that all steps took. Both come from this request alone, so that a busy machine slows
    down both sides of the ratio.

    Args:
        steps: all of the request's, with their decisions.
        always_computed: see `always_computed_share`.
    """
    branches: dict[str, list[bool]] = {}
    for step in steps:
        for decision in step.decisions:
            branches.setdefault(decision.branch, []).append(decision.reused)
    counted = tuple(
        BranchStatistics(branch, reused.count(False), reused.count(True))
        for branch, reused in branches.items()
    )
    decided = [decision.reused for step in steps for decision in step.decisions]
    share = sum(decided) / len(decided) if decided else 0.0
    return CacheStatistics(
        branches=counted,
        estimated_speedup=1 / (1 - share * (1 - always_computed)),
        realised_speedup=_realised_speedup(steps),
    )


def always_computed_share(cache: Cache, support: CacheSupport) -> float:
    """The share of a forward that is computed even where it is reused: of its blocks, 0 to 1.

    Cache-DiT's first and last blocks; none of TeaCache's. Blocks count alike, and what is around
    them (embedding, a block's first norm, head) counts as nothing.
    """
    if not isinstance(cache, CacheDit):
        return 0.0
    computed = cache.fn_compute_blocks + cache.bn_compute_blocks
    return computed * len(support.blocks) / sum(support.blocks)


def _realised_speedup(steps: Sequence[StepCompleted]) -> float | None:
    """None if every step reused something: then nothing tells what a whole one takes."""
    whole = [
        step.seconds for step in steps if not any(decision.reused for decision in step.decisions)
    ]
    total = sum(step.seconds for step in steps)
    return statistics.median(whole) * len(steps) / total if whole and total else None
