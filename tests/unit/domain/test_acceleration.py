import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoiser_service.rank.acceleration.tea_cache import TeaCacheRule
from triptych.domain.acceleration import (
    Cache,
    CacheDit,
    CacheMethod,
    CacheSupport,
    MaskPolicy,
    NoCache,
    TeaCache,
    cache_violations,
    effective_cache,
)

SUPPORT = CacheSupport(
    methods=tuple(CacheMethod), blocks=(12, 4), tea_cache_coefficients=(1, 2, 3, 4, 5)
)


def said(cache: Cache, steps: int = 50, **changes: Any) -> dict[str, str]:
    support = replace(SUPPORT, **changes)
    return {each.field: each.description for each in cache_violations(cache, support, steps)}


@pytest.mark.parametrize(
    "cache",
    [
        NoCache(),
        TeaCache(rel_l1_thresh=0),
        CacheDit(),
        CacheDit(
            fn_compute_blocks=3,
            bn_compute_blocks=1,
            taylorseer_order=4,
            scm_mask_policy=MaskPolicy.MEDIUM,
        ),
    ],
)
def test_the_published_options_are_allowed(cache: Cache) -> None:
    assert said(cache) == {}


@pytest.mark.parametrize(
    ("cache", "field", "description"),
    [
        (TeaCache(rel_l1_thresh=-0.1), "tea_cache.rel_l1_thresh", "is -0.1; allowed are 0"),
        (TeaCache(rel_l1_thresh=math.nan), "tea_cache.rel_l1_thresh", "is nan"),
        (TeaCache(coefficients=(1, 2)), "tea_cache.coefficients", "allowed are 5 finite numbers"),
        (CacheDit(fn_compute_blocks=0), "cache_dit.fn_compute_blocks", "is 0; allowed are 1"),
        (
            CacheDit(fn_compute_blocks=3, bn_compute_blocks=2),
            "cache_dit.fn_compute_blocks",
            "and bn_compute_blocks are 3 + 2; the model's lists hold 12 and 4 blocks",
        ),
        (CacheDit(max_warmup_steps=-1), "cache_dit.max_warmup_steps", "is -1"),
        (CacheDit(warmup_interval=0), "cache_dit.warmup_interval", "is 0; allowed are 1"),
        (
            CacheDit(max_accumulated_residual_diff_threshold=0.0),
            "cache_dit.max_accumulated_residual_diff_threshold",
            "is 0.0; allowed are numbers above 0",
        ),
        (CacheDit(max_cached_steps=-2), "cache_dit.max_cached_steps", "is -2; allowed are -1"),
        (CacheDit(residual_diff_threshold=-1), "cache_dit.residual_diff_threshold", "is -1"),
        (CacheDit(taylorseer_order=5), "cache_dit.taylorseer.order", "is 5; allowed are 1 to 4"),
    ],
)
def test_bad_options_are_refused_by_their_field(cache: Cache, field: str, description: str) -> None:
    violations = said(cache)
    assert list(violations) == [f"acceleration.{field}"]
    assert description in violations[f"acceleration.{field}"]


@pytest.mark.parametrize("steps", [4, 6, 8, 9, 50])
def test_masks_are_there_for_these_step_counts(steps: int) -> None:
    assert said(CacheDit(scm_mask_policy=MaskPolicy.MEDIUM), steps) == {}


@pytest.mark.parametrize("steps", [2, 3, 5, 7])
def test_masks_for_other_step_counts_are_refused(steps: int) -> None:
    assert said(CacheDit(scm_mask_policy=MaskPolicy.MEDIUM), steps) == {
        "acceleration.cache_dit.scm": f"has no mask for {steps} steps; it has them for 4 and 6 and"
        " from 8 on"
    }


def test_taylorseer_on_a_few_steps_is_refused() -> None:
    assert said(CacheDit(taylorseer_order=1), steps=4) == {
        "acceleration.cache_dit.taylorseer": "needs at least 8 steps; there are 4"
    }


def test_too_many_coefficients_are_counted_and_not_repeated() -> None:
    (said_of_them,) = said(TeaCache(coefficients=(1.0,) * 100_000)).values()
    assert said_of_them == "are 100000; allowed are 5 finite numbers"


def test_tea_cache_needs_coefficients_of_the_model_or_the_request() -> None:
    assert said(TeaCache(), tea_cache_coefficients=None) == {
        "acceleration.tea_cache.coefficients": "are missing; none are known for this model, give"
        " five"
    }
    assert said(TeaCache(coefficients=(0, 0, 0, 1, 0)), tea_cache_coefficients=None) == {}


def test_a_method_that_a_model_lacks_is_refused() -> None:
    assert said(TeaCache(), methods=(CacheMethod.NONE,)) == {
        "acceleration.cache": "is tea_cache; allowed are none"
    }


def test_the_models_own_coefficients_are_filled_in_and_stay() -> None:
    once = effective_cache(TeaCache(), SUPPORT)
    assert once == TeaCache(coefficients=(1, 2, 3, 4, 5))
    assert effective_cache(once, SUPPORT) == once


@given(st.lists(st.floats(0, 2), max_size=30), st.floats(0, 3))
def test_tea_cache_reuses_while_the_sum_since_the_last_computed_step_is_small(
    distances: list[float], threshold: float
) -> None:
    rule = TeaCacheRule(threshold, (0, 0, 0, 1, 0))
    assert not rule.reuses(None, must_compute=False)
    total = 0.0
    for distance in distances:
        total += distance
        reused = rule.reuses(distance, must_compute=False)
        assert reused == (total < threshold)
        total = total if reused else 0.0


def test_a_step_that_must_be_computed_begins_the_sum_anew() -> None:
    rule = TeaCacheRule(1.0, (0, 0, 0, 1, 0))
    assert rule.reuses(0.9, must_compute=False)
    assert not rule.reuses(0.05, must_compute=True)
    assert rule.reuses(0.9, must_compute=False)
