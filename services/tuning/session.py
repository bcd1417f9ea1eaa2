"""One run of a tool: a model, what is drawn with it, and the profile that comes of it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from transformers.utils import logging as transformers_logging

from services.loaded_models.cache_profile import (
    CacheProfile,
    Conditions,
    find_profile,
    profiled_model,
)
from services.model_families import find_family
from services.model_files.checksums import read_checksums
from services.model_files.hub import open_model
from services.torch_setup.runtime import set_up_torch
from services.tuning.painter import Painter, load_painter
from services.tuning.report import say_progress
from services.tuning.settings import MeasuringSettings
from services.tuning.subjects import Subjects, subjects_of
from triptych.domain.acceleration import NO_CACHE
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Stage


@dataclass(frozen=True, slots=True)
class Session:
    """What both tools have.

    Attributes:
        profile: the one that is there, or an empty one.
    """

    painter: Painter
    subjects: Subjects
    profile: CacheProfile
    conditions: Conditions


def begin(settings: MeasuringSettings, profile: Path) -> Session:
    """Loads the model; whatever cannot be done is refused before that.

    Args:
        settings: what to measure.
        profile: the file that will be written; it may be there already.

    Raises:
        ConfigurationError: any of these cannot be used.
    """
    # Its warnings tell of packages that no model here needs.
    transformers_logging.set_verbosity_error()
    set_up_torch(settings.threads)
    if not profile.parent.is_dir():
        raise ConfigurationError(f"cache profile: the directory {profile.parent} does not exist")
    directory = open_model(
        settings.model, lambda index: find_family(index).spec.patterns(Stage.DENOISER)
    )
    spec = find_family(directory).spec
    existing = find_profile(directory, spec, profile) if profile.exists() else None
    painter = load_painter(
        settings.model,
        settings.dtype,
        settings.device,
        profile if existing else None,
        read_checksums(settings.model_manifest),
    )
    subjects = subjects_of(settings, painter.denoiser.loaded.model)
    drawn = subjects.parameters(0, NO_CACHE)
    conditions = Conditions(
        made=datetime.now(UTC).replace(microsecond=0),
        version=version("triptych"),
        dtype=settings.dtype,
        device=settings.device,
        threads=settings.threads,
        clock=painter.clock,
        prompts=len(subjects.prompts),
        steps=drawn.steps,
        width=drawn.width,
        height=drawn.height,
        guidance_scale=drawn.guidance_scale,
    )
    say_progress(f"loaded {directory.name}; each of {len(subjects.prompts)} prompts is drawn often")
    found = existing or CacheProfile(model=profiled_model(directory, spec))
    return Session(painter, subjects, found, conditions)
