import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tuning.polynomial import IDENTITY, fit_polynomial, r_squared, thresholds_for
from triptych.domain.errors import ConfigurationError

CURVE = (3.0, -1.0, 0.5, 2.0, 0.1)


def pairs_on(curve: tuple[float, ...], count: int, noise: float = 0.0) -> list[tuple[float, float]]:
    random = np.random.default_rng(0)
    signals = random.uniform(0.01, 1.0, count)
    outputs = np.polyval(curve, signals) + noise * random.standard_normal(count)
    return list(zip(signals.tolist(), outputs.tolist(), strict=True))


def test_the_fit_is_numpys_over_all_branches_together() -> None:
    cond, uncond = pairs_on(CURVE, 30, noise=0.2), pairs_on(CURVE, 20, noise=0.1)
    fit = fit_polynomial({"cond": cond, "uncond": uncond})
    everything = np.array(cond + uncond)
    wanted = np.polyfit(everything[:, 0], everything[:, 1], 4)
    assert fit.coefficients == tuple(wanted)
    assert fit.pairs == 50
    correlation = np.corrcoef(np.polyval(wanted, everything[:, 0]), everything[:, 1])[0, 1]
    # Of a least-squares fit they are the same.
    assert fit.r_squared == pytest.approx(correlation**2)
    assert fit.r_squared_by_branch.keys() == {"cond", "uncond"}


def test_a_polynomial_is_found_again() -> None:
    fit = fit_polynomial({"cond": pairs_on(CURVE, 40)})
    assert fit.coefficients == pytest.approx(CURVE)
    assert fit.r_squared == pytest.approx(1)


def test_outputs_that_signals_say_nothing_about_have_no_fit() -> None:
    random = np.random.default_rng(1)
    pairs = [tuple(each) for each in random.uniform(0, 1, (500, 2)).tolist()]
    assert fit_polynomial({"cond": pairs}).r_squared < 0.05
    assert r_squared(IDENTITY, np.array([(1.0, 0.3), (2.0, 0.3)])) == 0


def test_a_few_pairs_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="steps: give 5 pairs of consecutive steps"):
        fit_polynomial({"cond": pairs_on(CURVE, 3), "uncond": pairs_on(CURVE, 2)})


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=30), st.floats(0.1, 0.9))
def test_a_threshold_reuses_about_the_share_that_was_asked(
    distances: list[float], share: float
) -> None:
    trajectory = [None, *distances]
    (threshold,) = thresholds_for([share], [trajectory], IDENTITY)
    reused, total = 0, 0.0
    for distance in distances[:-1]:
        total += distance
        reused += total < threshold * 1.01
        total = total if total < threshold * 1.01 else 0.0
    most = len(distances) - 1
    assert reused >= min(share * len(trajectory), most) - 1e-9


def test_a_share_that_is_out_of_reach_gets_the_threshold_of_the_most() -> None:
    trajectory = [None, 0.25, 0.25, 0.25]
    first, *others = thresholds_for([0.25, 0.5, 0.9, 0.99], [trajectory], IDENTITY)
    assert first == pytest.approx(0.25, rel=0.01)
    assert others == [pytest.approx(0.5, rel=0.01)]
