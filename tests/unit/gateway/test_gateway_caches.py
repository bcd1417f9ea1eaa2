"""Caches that cannot be had, as the gateway's clients are told."""

from dataclasses import replace
from pathlib import Path

from tests.unit.domain.examples import CAPABILITIES
from tests.unit.gateway.running_gateway import failure_of, running_gateway
from triptych.domain.acceleration import CacheMethod, CacheSupport
from triptych.domain.errors import TriptychError
from triptych.v1.acceleration_pb2 import (
    Acceleration,
    CacheDit,
    StepsComputationMask,
    TaylorSeer,
    TeaCache,
)

# Its blocks are in two lists, and nobody has published coefficients for it.
CACHING = replace(
    CAPABILITIES, cache_support=CacheSupport(methods=tuple(CacheMethod), blocks=(12, 4))
)
UNKNOWN_POLICY = 99
# Each with the number of steps and the one field that is refused.
REFUSED = [
    (CacheDit(fn_compute_blocks=3, bn_compute_blocks=2), 20, "cache_dit.fn_compute_blocks"),
    (CacheDit(fn_compute_blocks=0), 20, "cache_dit.fn_compute_blocks"),
    (CacheDit(residual_diff_threshold=-0.1), 20, "cache_dit.residual_diff_threshold"),
    (CacheDit(max_cached_steps=-2), 20, "cache_dit.max_cached_steps"),
    (CacheDit(warmup_interval=0), 20, "cache_dit.warmup_interval"),
    (
        CacheDit(max_accumulated_residual_diff_threshold=-1),
        20,
        "cache_dit.max_accumulated_residual_diff_threshold",
    ),
    (CacheDit(taylorseer=TaylorSeer()), 4, "cache_dit.taylorseer"),
    (CacheDit(taylorseer=TaylorSeer(order=5)), 20, "cache_dit.taylorseer.order"),
    (CacheDit(scm=StepsComputationMask()), 5, "cache_dit.scm"),
    (
        CacheDit(scm=StepsComputationMask(mask_policy=UNKNOWN_POLICY)),  # type: ignore[arg-type]
        20,
        "cache_dit.scm.mask_policy",
    ),
    (
        CacheDit(scm=StepsComputationMask(policy=UNKNOWN_POLICY)),  # type: ignore[arg-type]
        20,
        "cache_dit.scm.policy",
    ),
    (TeaCache(), 20, "tea_cache.coefficients"),
    (TeaCache(coefficients=[1, 2]), 20, "tea_cache.coefficients"),
    (TeaCache(rel_l1_thresh=-0.1, coefficients=[1] * 5), 20, "tea_cache.rel_l1_thresh"),
]


async def test_bad_options_are_refused_by_their_field_before_any_work(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.cluster.limit(CACHING)
        await gateway.until_the_model_is(CACHING)
        refusals: list[TriptychError] = []
        for cache, steps, _ in REFUSED:
            asked = (
                Acceleration(tea_cache=cache)
                if isinstance(cache, TeaCache)
                else Acceleration(cache_dit=cache)
            )
            refusals.append(await failure_of(gateway.generate(steps=steps, acceleration=asked)))
        assert gateway.cluster.encoder.requests == []
    assert {(each.status, each.reason) for each in refusals} == {
        ("INVALID_ARGUMENT", "INVALID_REQUEST")
    }
    fields = [[violation.field for violation in each.violations] for each in refusals]
    assert fields == [[f"acceleration.{field}"] for _, _, field in REFUSED]


async def test_a_method_that_a_model_lacks_is_refused(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        asked = Acceleration(cache_dit=CacheDit())
        error = await failure_of(gateway.generate(acceleration=asked))
    (violation,) = error.violations
    assert violation.field == "acceleration.cache"
    assert violation.description == "is cache_dit; allowed are none"
