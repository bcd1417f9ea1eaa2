"""Ways to reuse work between denoising steps. What is None takes the published default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MaskPolicy = Literal["slow", "medium", "fast", "ultra"]
ReusePolicy = Literal["dynamic", "static"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCache:
    """Every step is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeaCache:
    """Reuse while the accumulated, rescaled change of the first block's input stays small.

    Attributes:
        rel_l1_thresh: accumulated distance at which a step is computed; 0 computes every step.
        coefficients: of the polynomial that rescales a distance, five, highest power first; none
            for the model's own.
        compute_last_step: whether the last step is always computed.
    """

    rel_l1_thresh: float | None = None
    coefficients: Sequence[float] = ()
    compute_last_step: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDit:
    """Cache-DiT's DBCache with its calibrator and mask; counts are for each guidance branch.

    Attributes:
        fn_compute_blocks: first blocks, of each list, that are always computed and decide.
        bn_compute_blocks: last blocks, of each list, that are always computed.
        max_warmup_steps: first steps that are always computed.
        warmup_interval: of those, every how many one is; the others are treated as later ones are.
        max_cached_steps: reused steps at most; -1 for no limit.
        max_continuous_cached_steps: reused steps in a row at most; -1 for no limit.
        residual_diff_threshold: change below which a step is reused; 0 computes every step.
        max_accumulated_residual_diff_threshold: sum of all changes seen so far from which on steps
            are computed; None for no limit.
        taylorseer_order: forecasts what is reused by a Taylor expansion; None to reuse it as it is.
        scm_mask_policy: Steps Computation Mask, from many computed steps to few; None for no mask.
        scm_policy: whether steps that the mask leaves out are tested ("dynamic") or always reused.
    """

    fn_compute_blocks: int | None = None
    bn_compute_blocks: int | None = None
    max_warmup_steps: int | None = None
    warmup_interval: int | None = None
    max_cached_steps: int | None = None
    max_continuous_cached_steps: int | None = None
    residual_diff_threshold: float | None = None
    max_accumulated_residual_diff_threshold: float | None = None
    taylorseer_order: int | None = None
    scm_mask_policy: MaskPolicy | None = None
    scm_policy: ReusePolicy | None = None


Cache = NoCache | TeaCache | CacheDit


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchStatistics:
    """What caching did for one guidance branch over a whole request.

    Attributes:
        branch: for example "cond".
    """

    branch: str
    computed_forwards: int
    reused_forwards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatistics:
    """What caching did over a whole request, and what that gained in its denoising loop.

    Attributes:
        computed_forwards: of all branches.
        reused_forwards: of all branches.
        branches: the same, one by one.
        estimated_speedup: 1 / (1 - r * (1 - f)), with r the reused share and f the share of the
            blocks that are computed even in a reused forward.
        realised_speedup: the median seconds of steps that reused nothing, times all steps, over the
            seconds all steps took; None where every step reused something.
    """

    computed_forwards: int
    reused_forwards: int
    branches: tuple[BranchStatistics, ...] = ()
    estimated_speedup: float | None = None
    realised_speedup: float | None = None

    @property
    def reused_share(self) -> float:
        """Of all forwards, 0 to 1: the skipped share."""
        return self.reused_forwards / (self.computed_forwards + self.reused_forwards)


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchDecision:
    """What a cache decided for one guidance branch in one step.

    Attributes:
        branch: for example "cond".
        signal: what the method looked at (a relative distance); None where it looked at nothing.
    """

    branch: str
    reused: bool
    signal: float | None
