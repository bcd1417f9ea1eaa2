"""How the denoising loop of one request may be accelerated.

Names and defaults of TeaCache's and Cache-DiT's options are those of their published interfaces
(vLLM-Omni's diffusion cache configuration; Cache-DiT's DBCacheConfig).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final, Literal

from annotated_types import Interval

from triptych.domain.errors import FieldViolation
from triptych.domain.limits import intervals
from triptych.domain.open_enum import OpenEnum

_COEFFICIENTS: Final = 5
# Fewer steps leave nothing to extrapolate from after a warm-up.
_MIN_TAYLOR_STEPS: Final = 8
# The step counts that Cache-DiT has masks for, below those from which it makes them.
_MIN_MASKED_STEPS: Final = 8
_SHORT_MASKS: Final = (4, 6)


class CacheMethod(OpenEnum):
    """A way to reuse work between denoising steps."""

    NONE = "none"
    TEA_CACHE = "tea_cache"
    CACHE_DIT = "cache_dit"


class CoefficientsSource(OpenEnum):
    """Where a model's TeaCache polynomial comes from."""

    PUBLISHED = "published"
    CALIBRATED = "calibrated"


class MaskPolicy(OpenEnum):
    """Which Steps Computation Mask applies: from many computed steps to few."""

    SLOW = "slow"
    MEDIUM = "medium"
    FAST = "fast"
    ULTRA = "ultra"


class ReusePolicy(OpenEnum):
    """How a step that the mask marks as reusable is treated."""

    DYNAMIC = "dynamic"
    STATIC = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCache:
    """Every step is computed."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["none"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeaCache:
    """Reuse while the accumulated, rescaled change of the first block's input stays small.

    Attributes:
        rel_l1_thresh: accumulated relative L1 distance at which a step is computed; 0 computes all.
        coefficients: of the polynomial that rescales a distance, five, highest power first; None
            for the model's own.
        compute_last_step: whether the last step is always computed.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["tea_cache"] = "tea_cache"
    rel_l1_thresh: float = 0.2
    coefficients: tuple[float, ...] | None = None
    compute_last_step: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDit:
    """Cache-DiT's DBCache, with its calibrator and mask; counts are for each guidance branch.

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
        scm_mask_policy: a MaskPolicy: which steps may be reused at all; None for all after the
            warm-up.
        scm_policy: a ReusePolicy for those; only with a mask, and "dynamic" by default.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["cache_dit"] = "cache_dit"
    fn_compute_blocks: Annotated[int, Interval(ge=1)] = 1
    bn_compute_blocks: Annotated[int, Interval(ge=0)] = 0
    max_warmup_steps: Annotated[int, Interval(ge=0)] = 4
    warmup_interval: Annotated[int, Interval(ge=1)] = 1
    max_cached_steps: Annotated[int, Interval(ge=-1)] = -1
    max_continuous_cached_steps: Annotated[int, Interval(ge=-1)] = 3
    residual_diff_threshold: float = 0.24
    max_accumulated_residual_diff_threshold: float | None = None
    taylorseer_order: Annotated[int | None, Interval(ge=1, le=4)] = None
    scm_mask_policy: Annotated[str | None, MaskPolicy] = None
    scm_policy: Annotated[str | None, ReusePolicy] = None


Cache = NoCache | TeaCache | CacheDit
NO_CACHE: Final = NoCache()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSupport:
    """What a model can reuse.

    Attributes:
        methods: those a request may name.
        blocks: how many each of the transformer's lists holds.
        tea_cache_coefficients: the model's own; None where none are known.
        coefficients_source: where those come from.
    """

    methods: tuple[CacheMethod, ...] = (CacheMethod.NONE,)
    blocks: tuple[int, ...] = ()
    tea_cache_coefficients: tuple[float, ...] | None = None
    coefficients_source: CoefficientsSource = CoefficientsSource.PUBLISHED


NO_SUPPORT: Final = CacheSupport()


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
        return replace(cache, coefficients=support.tea_cache_coefficients)
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
    for name, (lowest, highest) in intervals(CacheDit).items():
        value = getattr(cache, name)
        if highest is None and value < lowest:
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
    lowest, highest = intervals(CacheDit)["taylorseer_order"]
    if order is not None and not lowest <= order <= highest:
        allowed = f"allowed are {lowest} to {highest}"
        yield FieldViolation(f"{path}.taylorseer.order", f"is {order}; {allowed}")
    if order is not None and steps < _MIN_TAYLOR_STEPS:
        yield FieldViolation(
            f"{path}.taylorseer", f"needs at least {_MIN_TAYLOR_STEPS} steps; there are {steps}"
        )
    for name, words in (("mask_policy", MaskPolicy), ("policy", ReusePolicy)):
        if (word := getattr(cache, f"scm_{name}")) is not None and word not in list(words):
            yield FieldViolation(f"{path}.scm.{name}", f"is {word}; allowed are {', '.join(words)}")
    if cache.scm_policy is not None and cache.scm_mask_policy is None:
        yield FieldViolation(f"{path}.scm.policy", "has no effect without a mask policy")
    if cache.scm_mask_policy is not None and not has_mask(steps):
        yield FieldViolation(
            f"{path}.scm",
            f"has no mask for {steps} steps; it has them for {_listed(_SHORT_MASKS)} and from"
            f" {_MIN_MASKED_STEPS} on",
        )


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
