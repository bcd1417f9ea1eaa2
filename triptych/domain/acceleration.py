"""How the denoising loop of one request may be accelerated.

Names and defaults of TeaCache's and Cache-DiT's options are those of their published interfaces
(vLLM-Omni's diffusion cache configuration; Cache-DiT's DBCacheConfig).
"""

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from triptych.domain.errors import FieldViolation

_COEFFICIENTS: Final = 5
# Fewer steps leave nothing to extrapolate from after a warm-up.
_MIN_TAYLOR_STEPS: Final = 8
# The step counts that Cache-DiT has masks for, below those from which it makes them.
_MIN_MASKED_STEPS: Final = 8
_SHORT_MASKS: Final = (4, 6)


class CacheMethod(StrEnum):
    """A way to reuse work between denoising steps."""

    NONE = "none"
    TEA_CACHE = "tea_cache"
    CACHE_DIT = "cache_dit"


class CoefficientsSource(StrEnum):
    """Where a model's TeaCache polynomial comes from."""

    PUBLISHED = "published"
    CALIBRATED = "calibrated"


class MaskPolicy(StrEnum):
    """Which Steps Computation Mask applies: from many computed steps to few."""

    SLOW = "slow"
    MEDIUM = "medium"
    FAST = "fast"
    ULTRA = "ultra"


class ReusePolicy(StrEnum):
    """How a step that the mask marks as reusable is treated."""

    DYNAMIC = "dynamic"
    STATIC = "static"


class _Cache(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoCache(_Cache):
    """Every step is computed."""

    kind: Literal["none"] = "none"


class TeaCache(_Cache):
    """Reuse while the accumulated, rescaled change of the first block's input stays small.

    Attributes:
        rel_l1_thresh: accumulated relative L1 distance at which a step is computed; 0 computes all.
        coefficients: of the polynomial that rescales a distance, highest power first; None for the
            model's own.
        compute_last_step: whether the last step is always computed.
    """

    kind: Literal["tea_cache"] = "tea_cache"
    rel_l1_thresh: float = 0.2
    coefficients: tuple[float, ...] | None = None
    compute_last_step: bool = True


class StepsMask(_Cache):
    """Cache-DiT's Steps Computation Mask."""

    mask_policy: MaskPolicy = MaskPolicy.MEDIUM
    policy: ReusePolicy = ReusePolicy.DYNAMIC


class CacheDit(_Cache):
    """Cache-DiT's DBCache, with its calibrator and mask; per guidance branch.

    Attributes:
        fn_compute_blocks: first blocks, of each list, that are always computed and decide.
        bn_compute_blocks: last blocks, of each list, that are always computed.
        max_warmup_steps: first steps that are always computed.
        warmup_interval: of those, every how many one is; the others are treated as later ones are.
        max_cached_steps: reused steps at most; -1 for no limit.
        max_continuous_cached_steps: reused steps in a row at most; -1 for no limit.
        residual_diff_threshold: change below which a step is reused; 0 computes all.
        max_accumulated_residual_diff_threshold: sum of all changes seen so far from which on steps
            are computed; None for no limit.
        taylorseer_order: forecasts what is reused by a Taylor expansion; None to reuse it as it is.
        scm: which steps may be reused at all; None for all after the warm-up.
    """

    kind: Literal["cache_dit"] = "cache_dit"
    fn_compute_blocks: int = 1
    bn_compute_blocks: int = 0
    max_warmup_steps: int = 4
    warmup_interval: int = 1
    max_cached_steps: int = -1
    max_continuous_cached_steps: int = 3
    residual_diff_threshold: float = 0.24
    max_accumulated_residual_diff_threshold: float | None = None
    taylorseer_order: int | None = None
    scm: StepsMask | None = None


Cache = Annotated[NoCache | TeaCache | CacheDit, Field(discriminator="kind")]
NO_CACHE: Final = NoCache()


class CacheSupport(BaseModel):
    """What a model can reuse.

    Attributes:
        methods: those a request may name.
        blocks: how many each of the transformer's lists holds.
        tea_cache_coefficients: the model's own; None where none are known.
        coefficients_source: where those come from.
    """

    model_config = ConfigDict(frozen=True)

    methods: tuple[CacheMethod, ...] = (CacheMethod.NONE,)
    blocks: tuple[int, ...] = ()
    tea_cache_coefficients: tuple[float, ...] | None = None
    coefficients_source: CoefficientsSource = CoefficientsSource.PUBLISHED


def cache_violations(cache: Cache, support: CacheSupport, steps: int) -> Iterator[FieldViolation]:
    """What a model cannot honour of a cache for so many steps."""
    if cache.kind not in support.methods:
        allowed = ", ".join(support.methods)
        yield FieldViolation("acceleration.cache", f"is {cache.kind}; allowed are {allowed}")
    elif isinstance(cache, TeaCache):
        yield from _tea_cache_violations(cache, support)
    elif isinstance(cache, CacheDit):
        yield from _cache_dit_violations(cache, support, steps)


def effective_cache(cache: Cache, support: CacheSupport) -> Cache:
    """An allowed cache with the model's own values filled in."""
    if isinstance(cache, TeaCache) and cache.coefficients is None:
        return cache.model_copy(update={"coefficients": support.tea_cache_coefficients})
    return cache


def has_mask(steps: int) -> bool:
    """Whether Cache-DiT has a mask for so many steps."""
    return steps >= _MIN_MASKED_STEPS or steps in _SHORT_MASKS


def _tea_cache_violations(cache: TeaCache, support: CacheSupport) -> Iterator[FieldViolation]:
    path = "acceleration.tea_cache"
    if not math.isfinite(cache.rel_l1_thresh) or cache.rel_l1_thresh < 0:
        yield FieldViolation(
            f"{path}.rel_l1_thresh", f"is {cache.rel_l1_thresh}; allowed are 0 and above"
        )
    if cache.coefficients is None:
        if support.tea_cache_coefficients is None:
            yield FieldViolation(
                f"{path}.coefficients", "are missing; none are known for this model, give five"
            )
    elif len(cache.coefficients) != _COEFFICIENTS:
        # Not the numbers: they may be a million.
        yield FieldViolation(
            f"{path}.coefficients",
            f"are {len(cache.coefficients)}; allowed are {_COEFFICIENTS} finite numbers",
        )
    elif not all(map(math.isfinite, cache.coefficients)):
        yield FieldViolation(
            f"{path}.coefficients",
            f"are {list(cache.coefficients)}; allowed are {_COEFFICIENTS} finite numbers",
        )


def _cache_dit_violations(
    cache: CacheDit, support: CacheSupport, steps: int
) -> Iterator[FieldViolation]:
    path = "acceleration.cache_dit"
    least = {
        "fn_compute_blocks": 1,
        "bn_compute_blocks": 0,
        "max_warmup_steps": 0,
        "warmup_interval": 1,
        "max_cached_steps": -1,
        "max_continuous_cached_steps": -1,
    }
    for name, lowest in least.items():
        if (value := getattr(cache, name)) < lowest:
            yield FieldViolation(f"{path}.{name}", f"is {value}; allowed are {lowest} and above")
    fewest = min(support.blocks, default=0)
    if cache.fn_compute_blocks + cache.bn_compute_blocks > fewest:
        yield FieldViolation(
            f"{path}.fn_compute_blocks",
            f"and bn_compute_blocks are {cache.fn_compute_blocks} + {cache.bn_compute_blocks};"
            f" the model's lists hold {_listed(support.blocks)} blocks",
        )
    threshold = cache.residual_diff_threshold
    if not math.isfinite(threshold) or threshold < 0:
        yield FieldViolation(
            f"{path}.residual_diff_threshold", f"is {threshold}; allowed are 0 and above"
        )
    limit = cache.max_accumulated_residual_diff_threshold
    if limit is not None and not 0 < limit < math.inf:
        yield FieldViolation(
            f"{path}.max_accumulated_residual_diff_threshold",
            f"is {limit}; allowed are numbers above 0",
        )
    yield from _calibrator_violations(cache, steps)


def _calibrator_violations(cache: CacheDit, steps: int) -> Iterator[FieldViolation]:
    order, path = cache.taylorseer_order, "acceleration.cache_dit"
    if order is not None and not 1 <= order <= 4:
        yield FieldViolation(f"{path}.taylorseer.order", f"is {order}; allowed are 1 to 4")
    if order is not None and steps < _MIN_TAYLOR_STEPS:
        yield FieldViolation(
            f"{path}.taylorseer", f"needs at least {_MIN_TAYLOR_STEPS} steps; there are {steps}"
        )
    if cache.scm is not None and not has_mask(steps):
        yield FieldViolation(
            f"{path}.scm",
            f"has no mask for {steps} steps; it has them for {_listed(_SHORT_MASKS)} and from"
            f" {_MIN_MASKED_STEPS} on",
        )


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
