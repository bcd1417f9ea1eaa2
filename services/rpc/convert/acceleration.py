"""Caches and what they did, on the wire."""

from typing import Any

from services.domain.stages import BranchDecision, BranchStatistics, CacheStatistics
from services.rpc.convert.enums import MASK_POLICIES, REUSE_POLICIES
from triptych.domain.acceleration import (
    Cache,
    CacheDit,
    MaskPolicy,
    NoCache,
    ReusePolicy,
    StepsMask,
    TeaCache,
)
from triptych.v1 import acceleration_pb2

_PATH = "acceleration.cache_dit.scm"
# Fields of Cache-DiT that are the same on both sides.
_PLAIN = (
    "fn_compute_blocks",
    "bn_compute_blocks",
    "max_warmup_steps",
    "max_cached_steps",
    "max_continuous_cached_steps",
    "residual_diff_threshold",
    "warmup_interval",
    "max_accumulated_residual_diff_threshold",
)


def cache_from_proto(message: acceleration_pb2.Acceleration) -> Cache | None:
    """The cache a message asks for; what it leaves out takes the published defaults.

    Raises:
        InvalidRequest: a policy is unknown.
    """
    match message.WhichOneof("cache"):
        case "none":
            return NoCache()
        case "tea_cache":
            return _tea_cache_from_proto(message.tea_cache)
        case "cache_dit":
            return _cache_dit_from_proto(message.cache_dit)
    return None


def cache_to_proto(cache: Cache) -> acceleration_pb2.Acceleration:
    """A cache's effective options."""
    match cache:
        case TeaCache():
            tea_cache = acceleration_pb2.TeaCache(
                rel_l1_thresh=cache.rel_l1_thresh,
                coefficients=cache.coefficients,
                compute_last_step=cache.compute_last_step,
            )
            return acceleration_pb2.Acceleration(tea_cache=tea_cache)
        case CacheDit():
            return acceleration_pb2.Acceleration(cache_dit=_cache_dit_to_proto(cache))
        case NoCache():
            return acceleration_pb2.Acceleration(none=acceleration_pb2.NoCache())


def decision_to_proto(decision: BranchDecision) -> acceleration_pb2.BranchDecision:
    """What was decided for one branch."""
    return acceleration_pb2.BranchDecision(
        branch=decision.branch,
        decision=acceleration_pb2.CACHE_DECISION_REUSED
        if decision.reused
        else acceleration_pb2.CACHE_DECISION_COMPUTED,
        signal=decision.signal,
    )


def decision_from_proto(message: acceleration_pb2.BranchDecision) -> BranchDecision:
    """What was decided for one branch."""
    return BranchDecision(
        branch=message.branch,
        reused=message.decision == acceleration_pb2.CACHE_DECISION_REUSED,
        signal=message.signal if message.HasField("signal") else None,
    )


def statistics_to_proto(
    statistics: CacheStatistics | None,
) -> acceleration_pb2.CacheStatistics | None:
    """What caching did over a whole request."""
    if statistics is None:
        return None
    return acceleration_pb2.CacheStatistics(
        computed_forwards=statistics.computed_forwards,
        reused_forwards=statistics.reused_forwards,
        estimated_speedup=statistics.estimated_speedup,
        branches=(
            acceleration_pb2.BranchStatistics(
                branch=each.branch, computed_forwards=each.computed, reused_forwards=each.reused
            )
            for each in statistics.branches
        ),
        realised_speedup=statistics.realised_speedup,
    )


def statistics_from_proto(message: acceleration_pb2.CacheStatistics) -> CacheStatistics:
    """What caching did over a whole request."""
    return CacheStatistics(
        branches=tuple(
            BranchStatistics(each.branch, each.computed_forwards, each.reused_forwards)
            for each in message.branches
        ),
        estimated_speedup=message.estimated_speedup,
        realised_speedup=message.realised_speedup if message.HasField("realised_speedup") else None,
    )


def _tea_cache_from_proto(message: acceleration_pb2.TeaCache) -> TeaCache:
    given: dict[str, Any] = {
        name: getattr(message, name)
        for name in ("rel_l1_thresh", "compute_last_step")
        if message.HasField(name)
    }
    return TeaCache(coefficients=tuple(message.coefficients) or None, **given)


def _cache_dit_from_proto(message: acceleration_pb2.CacheDit) -> CacheDit:
    given: dict[str, Any] = {
        name: getattr(message, name) for name in _PLAIN if message.HasField(name)
    }
    if message.HasField("taylorseer"):
        # Its first order is the default of the library, too.
        given["taylorseer_order"] = (
            message.taylorseer.order if message.taylorseer.HasField("order") else 1
        )
    if message.HasField("scm"):
        mask = MASK_POLICIES.optional_from_wire(f"{_PATH}.mask_policy", message.scm.mask_policy)
        policy = REUSE_POLICIES.optional_from_wire(f"{_PATH}.policy", message.scm.policy)
        given["scm"] = StepsMask(
            mask_policy=mask or MaskPolicy.MEDIUM, policy=policy or ReusePolicy.DYNAMIC
        )
    return CacheDit(**given)


def _cache_dit_to_proto(cache: CacheDit) -> acceleration_pb2.CacheDit:
    order, scm = cache.taylorseer_order, cache.scm
    return acceleration_pb2.CacheDit(
        **{name: getattr(cache, name) for name in _PLAIN},
        taylorseer=None if order is None else acceleration_pb2.TaylorSeer(order=order),
        scm=None
        if scm is None
        else acceleration_pb2.StepsComputationMask(
            mask_policy=MASK_POLICIES.to_wire(scm.mask_policy),
            policy=REUSE_POLICIES.to_wire(scm.policy),
        ),
    )
