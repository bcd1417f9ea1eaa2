"""Caches between the client's own values and the messages of triptych.v1."""

from collections.abc import Iterator
from typing import Any, Final

from triptych.cache import (
    BranchDecision,
    BranchStatistics,
    Cache,
    CacheDit,
    CacheStatistics,
    NoCache,
    TeaCache,
)
from triptych.status import FieldViolation
from triptych.v1 import acceleration_pb2

_PATH: Final = "acceleration"
_PLAIN: Final = (
    "fn_compute_blocks",
    "bn_compute_blocks",
    "max_warmup_steps",
    "max_cached_steps",
    "max_continuous_cached_steps",
    "residual_diff_threshold",
    "warmup_interval",
    "max_accumulated_residual_diff_threshold",
)
_MASK_POLICIES: Final = {
    "slow": acceleration_pb2.SCM_MASK_POLICY_SLOW,
    "medium": acceleration_pb2.SCM_MASK_POLICY_MEDIUM,
    "fast": acceleration_pb2.SCM_MASK_POLICY_FAST,
    "ultra": acceleration_pb2.SCM_MASK_POLICY_ULTRA,
}
_POLICIES: Final = {
    "dynamic": acceleration_pb2.SCM_POLICY_DYNAMIC,
    "static": acceleration_pb2.SCM_POLICY_STATIC,
}


def fill_cache(message: acceleration_pb2.Acceleration, cache: object) -> Iterator[FieldViolation]:
    """Writes what a caller gave; yields what the wire cannot carry.

    Raises:
        TypeError: it is no cache.
    """
    match cache:
        case NoCache():
            message.none.SetInParent()
        case TeaCache():
            message.tea_cache.SetInParent()
            message.tea_cache.coefficients.extend(cache.coefficients)
            for name in ("rel_l1_thresh", "compute_last_step"):
                yield from _set(message.tea_cache, name, cache, f"{_PATH}.tea_cache")
        case CacheDit():
            message.cache_dit.SetInParent()
            yield from _fill_cache_dit(message.cache_dit, cache)
        case _:
            kinds = "NoCache, TeaCache, CacheDit"
            raise TypeError(f"cache is of type {type(cache).__name__}; allowed are {kinds}")


def cache_from_proto(message: acceleration_pb2.Acceleration) -> Cache:
    """Effective options."""
    match message.WhichOneof("cache"):
        case "tea_cache":
            return TeaCache(
                rel_l1_thresh=message.tea_cache.rel_l1_thresh,
                coefficients=tuple(message.tea_cache.coefficients),
                compute_last_step=message.tea_cache.compute_last_step,
            )
        case "cache_dit":
            return _cache_dit_from_proto(message.cache_dit)
    return NoCache()


def decisions_from_proto(step: Any) -> tuple[BranchDecision, ...]:  # noqa: ANN401 — a job_pb2.StepCompleted
    """Of one step, branch by branch."""
    return tuple(
        BranchDecision(
            branch=each.branch,
            reused=each.decision == acceleration_pb2.CACHE_DECISION_REUSED,
            signal=each.signal if each.HasField("signal") else None,
        )
        for each in step.cache_decisions
    )


def statistics_from_proto(message: acceleration_pb2.CacheStatistics) -> CacheStatistics:
    """Of a whole request."""
    return CacheStatistics(
        computed_forwards=message.computed_forwards,
        reused_forwards=message.reused_forwards,
        branches=tuple(
            BranchStatistics(
                branch=each.branch,
                computed_forwards=each.computed_forwards,
                reused_forwards=each.reused_forwards,
            )
            for each in message.branches
        ),
        estimated_speedup=_optional(message, "estimated_speedup"),
        realised_speedup=_optional(message, "realised_speedup"),
    )


def _optional(message: acceleration_pb2.CacheStatistics, field: str) -> float | None:
    return float(getattr(message, field)) if message.HasField(field) else None


def _fill_cache_dit(
    message: acceleration_pb2.CacheDit, cache: CacheDit
) -> Iterator[FieldViolation]:
    path = f"{_PATH}.cache_dit"
    for name in _PLAIN:
        yield from _set(message, name, cache, path)
    if cache.taylorseer_order is not None:
        try:
            message.taylorseer.order = cache.taylorseer_order
        except ValueError:
            said = f"is {cache.taylorseer_order}; allowed are 1 to 4"
            yield FieldViolation(f"{path}.taylorseer.order", said)
    if cache.scm_mask_policy is None and cache.scm_policy is not None:
        yield FieldViolation(f"{path}.scm.policy", "has no effect without a mask policy")
    for field, value, allowed in (
        ("mask_policy", cache.scm_mask_policy, _MASK_POLICIES),
        ("policy", cache.scm_policy, _POLICIES),
    ):
        if value is not None and value not in allowed:
            said = f"is {value}; allowed are {', '.join(allowed)}"
            yield FieldViolation(f"{path}.scm.{field}", said)
        elif value is not None:
            setattr(message.scm, field, allowed[value])


def _cache_dit_from_proto(message: acceleration_pb2.CacheDit) -> CacheDit:
    masked = message.HasField("scm")
    names: dict[int, Any] = {number: name for name, number in _MASK_POLICIES.items()}
    policies: dict[int, Any] = {number: name for name, number in _POLICIES.items()}
    return CacheDit(
        **{name: getattr(message, name) for name in _PLAIN if message.HasField(name)},
        taylorseer_order=message.taylorseer.order if message.HasField("taylorseer") else None,
        scm_mask_policy=names.get(message.scm.mask_policy) if masked else None,
        scm_policy=policies.get(message.scm.policy) if masked else None,
    )


def _set(
    message: acceleration_pb2.TeaCache | acceleration_pb2.CacheDit,
    name: str,
    cache: TeaCache | CacheDit,
    path: str,
) -> Iterator[FieldViolation]:
    value = getattr(cache, name)
    try:
        if value is not None:
            setattr(message, name, value)
    except ValueError:
        yield FieldViolation(f"{path}.{name}", f"is {value}, which is out of range")
