"""python -m services.tuning.tune: the fastest cache of one model that holds a quality."""

import sys
from collections.abc import Sequence

from services.loaded_models.cache_profile import Measurement, TunedDefault
from services.rpc.process import process_frame
from services.tuning.candidates import candidates
from services.tuning.comparison import compare
from services.tuning.recording import record
from services.tuning.report import named, say, say_conditions, say_measurements, say_progress
from services.tuning.session import begin
from services.tuning.settings import TuneSettings
from triptych.domain.errors import ConfigurationError


def main(settings: TuneSettings) -> None:
    """Measures every candidate, chooses and writes.

    Raises:
        ConfigurationError: it cannot be done, or no candidate holds; nothing is written then.
    """
    session = begin(settings, settings.profile)
    support = session.painter.denoiser.loaded.model.capabilities.cache_support
    recording = record(session.painter, session.subjects)
    caches = candidates(support, session.conditions.steps, recording.trajectories)
    if not caches:
        raise ConfigurationError(f"{session.profile.model.name} has no cache for so few steps")
    measured = compare(session.painter, session.subjects, caches, say_progress)
    say_conditions(session.conditions)
    say_measurements([(named(each.cache), each) for each in measured])
    chosen = fastest(measured, settings.min_psnr)
    default = TunedDefault.model_validate(
        {
            "conditions": session.conditions,
            "cache": chosen.cache,
            "min_psnr": settings.min_psnr,
            "measurements": tuple(measured),
        }
    )
    session.profile.model_copy(update={"default": default}).write(settings.profile)
    say(
        f"wrote {settings.profile}: {named(chosen.cache)}, the fastest of those whose every picture"
        f" holds {settings.min_psnr:g} dB, is the default from {session.conditions.steps} steps on"
    )


def fastest(measured: Sequence[Measurement], min_psnr: float) -> Measurement:
    """The fastest that gains anything and whose every picture holds a PSNR in dB.

    Raises:
        ConfigurationError: none does; the message says how near they came.
    """
    # One that reused nothing only seems faster.
    gaining = [each for each in measured if each.speedup > 1 and each.reused_share > 0]
    held = [each for each in gaining if each.holds(min_psnr)]
    if held:
        return max(held, key=lambda each: each.speedup)
    best = max((each.min_psnr for each in gaining if each.min_psnr is not None), default=None)
    near = "none is faster at all" if best is None else f"the best of the faster holds {best:.1f}"
    raise ConfigurationError(f"min_psnr: no cache holds {min_psnr:g} dB for every prompt; {near}")


if __name__ == "__main__":
    told = TuneSettings.read(sys.argv[1:])
    with process_frame("tune", told):
        main(told)
