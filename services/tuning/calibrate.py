"""python -m services.tuning.calibrate: TeaCache's polynomial for one model."""

import sys
from collections.abc import Sequence
from typing import Final

import numpy as np

from services.loaded_models.cache_profile import Calibration, Measurement
from services.rpc.process import process_frame
from services.tuning.comparison import compare
from services.tuning.polynomial import IDENTITY, MIN_R_SQUARED, fit_polynomial, thresholds_for
from services.tuning.recording import Recording, record
from services.tuning.report import (
    named,
    say,
    say_conditions,
    say_fit,
    say_measurements,
    say_progress,
)
from services.tuning.session import begin
from services.tuning.settings import CalibrateSettings
from triptych.domain.acceleration import TeaCache
from triptych.domain.errors import ConfigurationError

# Of steps; thresholds are chosen so that about as many are reused.
_SHARES: Final = (0.3, 0.5, 0.65, 0.8)
# Stands for equal pictures where numbers are needed.
_EQUAL: Final = 100.0


def main(settings: CalibrateSettings) -> None:
    """Records, fits, measures and writes.

    Raises:
        ConfigurationError: it cannot be done, or the fit is no good; nothing is written then.
    """
    session = begin(settings, settings.output)
    recording = record(session.painter, session.subjects)
    say_progress("recorded how much signals and outputs change from step to step")
    fit = fit_polynomial(recording.pairs)
    caches = _caches(recording, fit.coefficients)
    others = _caches(recording, IDENTITY)
    measured = compare(session.painter, session.subjects, [*caches, *others], say_progress)
    fitted, identity = measured[: len(caches)], measured[len(caches) :]
    say_conditions(session.conditions)
    say_measurements([*_named("fitted", fitted), *_named("identity", identity)])
    say_fit(fit)
    advantage = identity_advantage(fitted, identity)
    say(f"at equal reuse the identity is {advantage:+.1f} dB against the fit, in the median")
    if not settings.identity:
        check_fit(fit.r_squared, advantage)
        if advantage > 0:
            say("the identity is better here: consider --identity")
    calibration = Calibration(
        conditions=session.conditions,
        polynomial="identity" if settings.identity else "fitted",
        coefficients=IDENTITY if settings.identity else fit.coefficients,
        fit=fit,
        measurements=tuple(identity if settings.identity else fitted),
    )
    session.profile.model_copy(update={"tea_cache": calibration}).write(settings.output)
    say(f"wrote {settings.output}: the {calibration.polynomial} polynomial")


def _caches(recording: Recording, coefficients: tuple[float, ...]) -> list[TeaCache]:
    """One polynomial, at thresholds that reuse about the same shares as any other's."""
    thresholds = thresholds_for(_SHARES, recording.trajectories, coefficients)
    return [TeaCache(rel_l1_thresh=each, coefficients=coefficients) for each in thresholds]


def _named(polynomial: str, measured: Sequence[Measurement]) -> list[tuple[str, Measurement]]:
    return [(f"{named(each.cache)}, {polynomial}", each) for each in measured]


def check_fit(r_squared: float, advantage: float) -> None:
    """Refuses a polynomial that predicts too little.

    Raises:
        ConfigurationError: it does; the message says what to do instead.
    """
    if r_squared >= MIN_R_SQUARED:
        return
    instead = (
        "the identity polynomial is better at equal reuse, repeat with --identity"
        if advantage > 0
        else "repeat with more steps or other prompts, or take the identity polynomial by"
        " --identity"
    )
    raise ConfigurationError(
        f"the fit explains R2 = {r_squared:.3f} of how much outputs change, at least"
        f" {MIN_R_SQUARED} is needed: {instead}"
    )


def identity_advantage(fitted: Sequence[Measurement], identity: Sequence[Measurement]) -> float:
    """By how many dB the identity's pictures are better at equal reuse; the median over thresholds.

    Between its thresholds, the fit's PSNR is interpolated.
    """
    curve = sorted((each.reused_share, _decibels(each)) for each in fitted)
    shares, decibels = zip(*curve, strict=True)
    return float(
        np.median(
            [_decibels(each) - np.interp(each.reused_share, shares, decibels) for each in identity]
        )
    )


def _decibels(measured: Measurement) -> float:
    return _EQUAL if measured.median_psnr is None else measured.median_psnr


if __name__ == "__main__":
    told = CalibrateSettings.read(sys.argv[1:])
    with process_frame("calibrate", told):
        main(told)
