from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.loaded_models.cache_profile import Measurement
from services.tuning.calibrate import check_fit, identity_advantage
from services.tuning.candidates import candidates
from services.tuning.polynomial import IDENTITY
from services.tuning.tune import fastest
from tests.unit.loaded_models.profiles import MEASURED
from triptych.domain.acceleration import CacheDit, CacheMethod, CacheSupport, TeaCache
from triptych.domain.errors import ConfigurationError


def measured(**changes: Any) -> Measurement:
    return MEASURED.model_copy(update=changes)


def test_the_fastest_that_holds_is_chosen() -> None:
    slow, fast = measured(speedup=1.5, min_psnr=35.0), measured(speedup=1.9, min_psnr=30.0)
    too_unlike = measured(speedup=3.0, min_psnr=29.9)
    assert fastest([slow, too_unlike, fast], 30) == fast
    assert fastest([slow, too_unlike, fast], 31) == slow
    assert fastest([measured(min_psnr=None)], 99).min_psnr is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([measured(min_psnr=25.0), measured(min_psnr=27.25)], "the best of the faster holds 27.2"),
        ([measured(speedup=0.9, min_psnr=50.0)], "none is faster at all"),
        ([measured(speedup=1.1, reused_share=0.0, min_psnr=None)], "none is faster at all"),
    ],
)
def test_where_none_holds_that_is_said(rows: list[Measurement], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        fastest(rows, 30)


@given(
    st.lists(
        st.tuples(st.floats(0.5, 5), st.floats(10, 60) | st.none(), st.floats(0, 1)), max_size=12
    ),
    st.floats(10, 60),
)
def test_nothing_faster_was_passed_over(
    rows: list[tuple[float, float | None, float]], min_psnr: float
) -> None:
    table = [
        measured(speedup=speed, min_psnr=decibels, reused_share=share)
        for speed, decibels, share in rows
    ]
    held = [
        each
        for each in table
        if each.reused_share > 0
        and each.speedup > 1
        and (each.min_psnr is None or each.min_psnr >= min_psnr)
    ]
    try:
        chosen = fastest(table, min_psnr)
    except ConfigurationError:
        assert not held
    else:
        assert chosen in held
        assert chosen.speedup == max(each.speedup for each in held)


def test_the_identity_is_compared_at_equal_reuse() -> None:
    fitted = [measured(reused_share=share, median_psnr=60 - 40 * share) for share in (0.2, 0.8)]
    better = [measured(reused_share=share, median_psnr=63 - 40 * share) for share in (0.3, 0.5)]
    assert identity_advantage(fitted, better) == pytest.approx(3)
    assert identity_advantage(better, fitted[:1]) == pytest.approx(52 - 51)
    equal = [measured(reused_share=0.5, median_psnr=None)]
    assert identity_advantage(equal, equal) == 0


def test_a_fit_that_explains_less_than_half_is_refused() -> None:
    check_fit(0.5, advantage=3.0)
    with pytest.raises(ConfigurationError, match=r"R2 = 0\.499.*at least 0\.5.*identity.*better"):
        check_fit(0.499, advantage=0.1)
    with pytest.raises(ConfigurationError, match="repeat with more steps or other prompts"):
        check_fit(0.08, advantage=-1.0)


TRAJECTORY = [None, 0.1, 0.2, 0.1, 0.3, 0.2, 0.2, 0.1]
SUPPORT = CacheSupport(methods=tuple(CacheMethod), blocks=(12,))


@pytest.mark.parametrize("steps", [4, 8, 20, 50])
def test_only_what_the_model_can_have_is_tried(steps: int) -> None:
    tried = candidates(SUPPORT, steps, [TRAJECTORY])
    kinds = {type(each) for each in tried}
    assert kinds == {TeaCache, CacheDit}
    orders = {each.taylorseer_order for each in tried if isinstance(each, CacheDit)}
    assert orders == ({None, 1} if steps >= 8 else {None})
    assert all(each.max_warmup_steps < steps for each in tried if isinstance(each, CacheDit))
    assert len(set(map(str, tried))) == len(tried)


def test_a_model_without_blocks_for_cache_dit_is_tried_with_tea_cache_alone() -> None:
    support = CacheSupport(methods=(CacheMethod.NONE, CacheMethod.TEA_CACHE))
    assert {type(each) for each in candidates(support, 50, [TRAJECTORY])} == {TeaCache}


def test_tea_cache_takes_the_models_coefficients_or_else_the_identity() -> None:
    own = replace(SUPPORT, tea_cache_coefficients=(1.0, 2.0, 3.0, 4.0, 5.0))
    for support, wanted in ((SUPPORT, IDENTITY), (own, own.tea_cache_coefficients)):
        every = candidates(support, 50, [TRAJECTORY])
        tried = [each for each in every if isinstance(each, TeaCache)]
        assert {each.coefficients for each in tried} == {wanted}
