"""What was measured about caches of one model, and what a denoiser serves because of it.

A profile is a small JSON file that `triptych calibrate` and `triptych tune` write. Read without
torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from services.model_files.directory import CACHE_PROFILE, ModelDirectory
from services.model_ports.spec import FamilySpec
from triptych.domain.acceleration import (
    Cache,
    CacheDit,
    CoefficientsSource,
    TeaCache,
    cache_violations,
)
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Capabilities, Stage

Coefficients = Annotated[tuple[FiniteFloat, ...], Field(min_length=5, max_length=5)]
"""Of a polynomial of the fourth degree, highest power first."""
Clock = Literal["processor", "wall"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProfiledModel(_Part):
    """Which model a profile belongs to.

    Attributes:
        name: for people; a profile belongs to every model of its family and fingerprint.
        fingerprint: of the configurations of its transformers, in hexadecimal.
    """

    name: str
    family: str
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Conditions(_Part):
    """How and when numbers were measured.

    Attributes:
        version: of this project.
        clock: what was timed: the processor time of the loop, or the wall clock.
        prompts: how many were drawn, with the seeds 0, 1, and so on.
    """

    made: datetime
    version: str
    dtype: ElementType
    device: str
    threads: Annotated[int, Field(ge=1)]
    clock: Clock
    prompts: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    guidance_scale: FiniteFloat


class Measurement(_Part):
    """What one cache gained and cost over all prompts, against doing without.

    Attributes:
        speedup: of the denoising loop; the median over prompts, each timed beside its uncached run.
        smallest_speedup, largest_speedup: over the same.
        reused_share: of forwards, 0 to 1; the median.
        min_psnr, median_psnr: in dB, against the uncached pictures; None where they are equal.
        min_ssim, median_ssim: likewise, at most 1.
    """

    cache: Cache
    speedup: FiniteFloat
    smallest_speedup: FiniteFloat
    largest_speedup: FiniteFloat
    reused_share: Annotated[float, Field(ge=0, le=1)]
    min_psnr: FiniteFloat | None
    median_psnr: FiniteFloat | None
    min_ssim: FiniteFloat
    median_ssim: FiniteFloat

    def holds(self, min_psnr: float) -> bool:
        """Whether no picture was less like its uncached one."""
        return self.min_psnr is None or self.min_psnr >= min_psnr


class Fit(_Part):
    """A polynomial fitted to recorded pairs of distances.

    Attributes:
        r_squared: the share of the outputs' variance that it explains, over all pairs.
        pairs: how many steps were compared with the one before.
        r_squared_by_branch: of the same polynomial, over the pairs of one transformer's branch.
    """

    coefficients: Coefficients
    r_squared: FiniteFloat
    pairs: int
    r_squared_by_branch: dict[str, FiniteFloat]


class Calibration(_Part):
    """TeaCache's polynomial for the model.

    Attributes:
        polynomial: whether the coefficients are those of the fit, or the identity, which takes
            distances as they are.
        measurements: of this polynomial, at several thresholds.
    """

    conditions: Conditions
    polynomial: Literal["fitted", "identity"]
    coefficients: Coefficients
    fit: Fit
    measurements: tuple[Measurement, ...]


class TunedDefault(_Part):
    """What a request gets that names no cache.

    Attributes:
        min_psnr: what was asked of it, in dB; every prompt's picture held it.
        measurements: of every candidate.
    """

    conditions: Conditions
    cache: Annotated[TeaCache | CacheDit, Field(discriminator="kind")]
    min_psnr: FiniteFloat
    measurements: tuple[Measurement, ...]


class CacheProfile(_Part):
    """The whole file.

    Attributes:
        version: of this format.
        tea_cache: None if the model was not calibrated.
        default: None if a request that names no cache gets none.
    """

    version: Literal[1] = 1
    model: ProfiledModel
    tea_cache: Calibration | None = None
    default: TunedDefault | None = None

    def write(self, file: Path) -> None:
        """Writes the file, or replaces it at once.

        Raises:
            ConfigurationError: it cannot be written.
        """
        new = file.with_name(f".{file.name}.new")
        try:
            new.write_text(self.model_dump_json(indent=1) + "\n")
            new.replace(file)
        except OSError as error:
            raise ConfigurationError(f"cache profile: cannot write {file}: {error}") from error

    def applied(self, capabilities: Capabilities) -> Capabilities:
        """What the model does with this profile."""
        support, defaults = capabilities.cache_support, capabilities.defaults
        if self.tea_cache is not None:
            support = replace(
                support,
                tea_cache_coefficients=self.tea_cache.coefficients,
                coefficients_source=CoefficientsSource.CALIBRATED,
            )
        if self.default is not None:
            steps = self.default.conditions.steps
            defaults = replace(defaults, cache=self.default.cache, cache_min_steps=steps)
        return replace(capabilities, cache_support=support, defaults=defaults)


def read_profile(file: Path) -> CacheProfile:
    """Reads a file.

    Raises:
        ConfigurationError: it is no profile; in one sentence.
    """
    try:
        return CacheProfile.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cache profile: cannot read {file}: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise ConfigurationError(f"cache profile: {file}: {place}: {problem['msg']}") from error


def find_profile(
    directory: ModelDirectory, spec: FamilySpec, file: Path | None = None
) -> CacheProfile | None:
    """The profile that a model is served with: the file, or else that in its directory.

    Raises:
        ConfigurationError: it cannot be read, belongs to another model, or its default is not one
            that the model can have.
    """
    own = directory.path / CACHE_PROFILE
    if file is None and not own.exists():
        return None
    file = file or own
    profile = read_profile(file)
    made_for, served = profile.model, fingerprint(directory, spec)
    if (made_for.family, made_for.fingerprint) != (spec.name, served):
        raise ConfigurationError(
            f"cache profile: {file} was made for {made_for.name} ({made_for.family},"
            f" {made_for.fingerprint[:12]}), not for {directory.name} ({spec.name}, {served[:12]})"
        )
    if profile.default is not None:
        capabilities = profile.applied(spec.capabilities(directory))
        default, steps = profile.default.cache, profile.default.conditions.steps
        for problem in cache_violations(default, capabilities.cache_support, steps):
            raise ConfigurationError(
                f"cache profile: {file}: default: {problem.field} {problem.description}"
            )
    return profile


def profiled_model(directory: ModelDirectory, spec: FamilySpec) -> ProfiledModel:
    """Which model a new profile belongs to."""
    return ProfiledModel(
        name=directory.name, family=spec.name, fingerprint=fingerprint(directory, spec)
    )


def fingerprint(directory: ModelDirectory, spec: FamilySpec) -> str:
    """Of the configurations of a model's transformers: the same for all weights of their shape."""
    if spec.files is None:
        names = spec.weights[Stage.DENOISER]
        configs = {name: _meaningful(directory.config(name)) for name in names}
    else:
        names = tuple(each for each in spec.files[Stage.DENOISER] if each.endswith(".json"))
        configs = {name: _meaningful(directory.json(name)) for name in names}
    canonical = json.dumps(configs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _meaningful(config: Mapping[str, Any]) -> dict[str, Any]:
    # Names with an underscore say who wrote the file.
    return {name: value for name, value in config.items() if not name.startswith("_")}
