"""Fits TeaCache's polynomial to recorded distances, and predicts what a threshold would reuse."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from denoiser_service.rank.acceleration.tea_cache import TeaCacheRule
from services.loaded_models.cache_profile import Fit
from triptych.domain.errors import ConfigurationError

DEGREE: Final = 4
IDENTITY: Final = (0.0, 0.0, 0.0, 1.0, 0.0)
"""Takes distances as they are."""
MIN_R_SQUARED: Final = 0.5
"""Below, a polynomial explains less than half of how the outputs' changes vary."""

_BISECTIONS: Final = 40
_Values = npt.NDArray[np.float64]


def fit_polynomial(pairs: Mapping[str, Sequence[tuple[float, float]]]) -> Fit:
    """Fits outputs' distances on signals' distances by least squares, all branches together.

    Args:
        pairs: by transformer and branch; see services.tuning.recording.Recording.

    Raises:
        ConfigurationError: there are too few.
    """
    everything = np.array([pair for each in pairs.values() for pair in each]).reshape(-1, 2)
    if len(everything) <= DEGREE + 1:
        raise ConfigurationError(
            f"steps: give {len(everything)} pairs of consecutive steps; a polynomial of degree"
            f" {DEGREE} needs at least {DEGREE + 2}"
        )
    # `full`: what is said of a poor condition comes as a value; R-squared tells it better.
    coefficients, *_ = np.polyfit(everything[:, 0], everything[:, 1], DEGREE, full=True)
    return Fit(
        coefficients=tuple(map(float, coefficients)),
        r_squared=r_squared(coefficients, everything),
        pairs=len(everything),
        r_squared_by_branch={
            name: r_squared(coefficients, np.array(each)) for name, each in pairs.items() if each
        },
    )


def r_squared(coefficients: Sequence[float] | _Values, pairs: _Values) -> float:
    """The share of the outputs' variance that a polynomial explains; negative if it adds to it."""
    signals, outputs = pairs[:, 0], pairs[:, 1]
    spread = float(((outputs - outputs.mean()) ** 2).sum())
    if spread == 0:
        return 0.0
    return 1 - float(((outputs - np.polyval(coefficients, signals)) ** 2).sum()) / spread


def thresholds_for(
    shares: Sequence[float],
    trajectories: Sequence[Sequence[float | None]],
    coefficients: Sequence[float],
) -> list[float]:
    """About the smallest thresholds by which shares of the recorded steps would be reused.

    Args:
        shares: of steps, 0 to 1; of one that no threshold reaches, the largest that can be had.
        trajectories: see services.tuning.recording.Recording.
        coefficients: of the polynomial, highest power first.

    Returns:
        Different thresholds, one for each share at most.
    """
    most = _reused(float("inf"), trajectories, coefficients)
    found = [_threshold(min(each, most), trajectories, coefficients) for each in shares]
    return list(dict.fromkeys(found))


def _threshold(
    share: float,
    trajectories: Sequence[Sequence[float | None]],
    coefficients: Sequence[float],
) -> float:
    low, high = 0.0, 1e-6
    while _reused(high, trajectories, coefficients) < share:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _reused(middle, trajectories, coefficients) < share:
            low = middle
        else:
            high = middle
    return float(f"{high:.3g}")


def _reused(
    threshold: float,
    trajectories: Sequence[Sequence[float | None]],
    coefficients: Sequence[float],
) -> float:
    reused = steps = 0
    for distances in trajectories:
        rule = TeaCacheRule(threshold, coefficients)
        for number, distance in enumerate(distances, start=1):
            reused += rule.reuses(distance, must_compute=number == len(distances))
        steps += len(distances)
    return reused / steps
