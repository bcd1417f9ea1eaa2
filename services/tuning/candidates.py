"""Caches worth trying on a model."""

from collections.abc import Iterator, Sequence
from typing import Final

from services.tuning.polynomial import IDENTITY, thresholds_for
from triptych.domain.acceleration import (
    Cache,
    CacheDit,
    CacheSupport,
    MaskPolicy,
    TeaCache,
    cache_violations,
)

# Of steps; TeaCache's thresholds are chosen so that about as many are reused.
_SHARES: Final = (0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
_DBCACHE_THRESHOLDS: Final = (0.08, 0.12, 0.24)
_MASKS: Final = (MaskPolicy.MEDIUM, MaskPolicy.FAST)
_MASKED_THRESHOLD: Final = 0.24
# Published for 50 steps; as large a part of fewer would leave little to reuse.
_WARMUP: Final = 8
_WARMUP_SHARE: Final = 6


def candidates(
    support: CacheSupport, steps: int, trajectories: Sequence[Sequence[float | None]]
) -> list[Cache]:
    """TeaCache, and DBCache at the published thresholds, with TaylorSeer and masks and without.

    Args:
        support: what the model can reuse; without coefficients TeaCache takes the identity.
        steps: those that the model cannot have for so many are left out.
        trajectories: of the model's signal; see services.tuning.recording.Recording.
    """
    coefficients = support.tea_cache_coefficients or IDENTITY
    every: list[Cache] = [
        *(
            TeaCache(rel_l1_thresh=each, coefficients=coefficients)
            for each in thresholds_for(_SHARES, trajectories, coefficients)
        ),
        *_cache_dits(steps),
    ]
    return [each for each in every if not any(cache_violations(each, support, steps))]


def _cache_dits(steps: int) -> Iterator[CacheDit]:
    warmup = min(_WARMUP, max(1, steps // _WARMUP_SHARE))
    for order in (None, 1):
        for threshold in _DBCACHE_THRESHOLDS:
            yield CacheDit(
                max_warmup_steps=warmup,
                max_continuous_cached_steps=-1,
                residual_diff_threshold=threshold,
                taylorseer_order=order,
            )
        for mask in _MASKS:
            yield CacheDit(
                max_warmup_steps=warmup,
                max_continuous_cached_steps=-1,
                residual_diff_threshold=_MASKED_THRESHOLD,
                taylorseer_order=order,
                scm_mask_policy=mask,
            )
