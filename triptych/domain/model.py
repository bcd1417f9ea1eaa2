"""A served model: what it accepts and what it does with what is left out."""

import re
from dataclasses import dataclass
from typing import Final

from triptych.domain.acceleration import (
    NO_CACHE,
    NO_SUPPORT,
    Cache,
    CacheMethod,
    CacheSupport,
    cache_violations,
    effective_cache,
)
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.family_options import FamilyOptions, OptionLimits
from triptych.domain.image_fit import ImageFit
from triptych.domain.open_enum import OpenEnum
from triptych.domain.parallel import ONE_RANK_ONLY, ParallelMethod, ParallelSupport
from triptych.domain.receipt import Fingerprint

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Stage(OpenEnum):
    """A panel of the triptych."""

    ENCODER = "encoder"
    DENOISER = "denoiser"
    VAE = "vae"


class MediaFormat(OpenEnum):
    """The encoding of an artifact."""

    PNG = "png"
    MP4 = "mp4"
    PNG_ARCHIVE = "png_archive"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def is_picture(self) -> bool:
        """Whether it holds one picture."""
        return self in {MediaFormat.PNG, MediaFormat.JPEG, MediaFormat.WEBP}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """Values for what a request leaves out.

    Attributes:
        negative_prompt: used when guidance is on and the request has none.
        cache: used from cache_min_steps on, if the request names no cache; not even "none".
        cache_min_steps: fewer steps differ more from one another than those it was chosen with.
    """

    width: int
    height: int
    steps: int
    guidance_scale: float
    negative_prompt: str = " "
    cache: Cache = NO_CACHE
    cache_min_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Limits in pixels, steps and characters; bounds are inclusive.

    Attributes:
        supports_guidance: whether guidance_scale does anything, in whichever way.
        supports_negative_prompt: whether guidance runs a second branch, from a negative prompt.
        guidance_field: of a request: how much that branch steers; one of the options may say so.
        guidance_off_scale: at this value of it and below, that branch is not run.
        min_images: input images a request must carry; 0 for models that draw from a prompt alone.
        max_images: input images a request may carry.
        image_fit: how the size follows from the last input image; None where it does not.
        options: knobs of the model's family, all of one group.
        supports_previews: whether a request may ask for pictures of what it is heading for.
        supports_step_batching: whether requests of the same sizes can take a step in one forward.
    """

    max_prompt_characters: int
    max_prompt_tokens: int
    size_multiple: int
    min_side: int
    max_side: int
    max_pixels: int
    min_steps: int
    max_steps: int
    supports_guidance: bool
    min_guidance_scale: float
    max_guidance_scale: float
    supports_negative_prompt: bool = True
    guidance_field: str = "guidance_scale"
    guidance_off_scale: float = 1.0
    min_images: int = 0
    max_images: int = 0
    image_fit: ImageFit | None = None
    options: tuple[OptionLimits, ...] = ()
    supports_previews: bool = False
    supports_step_batching: bool = False
    media_formats: tuple[MediaFormat, ...] = (
        MediaFormat.PNG,
        MediaFormat.JPEG,
        MediaFormat.WEBP,
    )
    cache_support: CacheSupport = NO_SUPPORT
    parallel_support: ParallelSupport = ONE_RANK_ONLY
    defaults: GenerationDefaults

    @property
    def cache_methods(self) -> tuple[CacheMethod, ...]:
        """Ways to reuse work between steps, for example "tea_cache"."""
        return self.cache_support.methods

    @property
    def tea_cache_coefficients(self) -> tuple[float, ...]:
        """The model's own; empty where a request must bring them."""
        return self.cache_support.tea_cache_coefficients or ()

    @property
    def tea_cache_coefficients_source(self) -> str:
        """Where those come from; empty where there are none."""
        return self.cache_support.coefficients_source if self.tea_cache_coefficients else ""

    @property
    def parallel_methods(self) -> tuple[ParallelMethod, ...]:
        """Ways to spread a step over ranks, for example "ulysses"."""
        return self.parallel_support.methods

    @property
    def attention_heads(self) -> int:
        """That the degree of Ulysses must divide."""
        return self.parallel_support.attention_heads

    @property
    def guidance_branches(self) -> int:
        """The highest degree of CFG-Parallel."""
        return self.parallel_support.guidance_branches

    def guides(self, guidance_scale: float, options: FamilyOptions | None) -> bool:
        """Whether each step runs a second branch, from the negative prompt.

        Args:
            guidance_scale: effective.
            options: as asked.
        """
        scale = guidance_scale
        for option in self.options:
            if option.name == self.guidance_field:
                scale = option.effective(options)
        return self.supports_negative_prompt and scale > self.guidance_off_scale

    def default_cache(self, steps: int) -> Cache:
        """What a request of so many steps gets that names no cache.

        None at all where the model's default cannot be had for them: nobody asked for it.
        """
        cache, support = self.defaults.cache, self.cache_support
        if steps < self.defaults.cache_min_steps or any(cache_violations(cache, support, steps)):
            return NO_CACHE
        return effective_cache(cache, support)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model under the name requests call it by.

    Attributes:
        family: for example "qwen-image".
        dtype: the type the served weights compute in.
    """

    name: str
    family: str
    capabilities: Capabilities
    dtype: ElementType

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest.of(
                "name",
                f"is {self.name!r}; allowed are 1 to 64 letters, digits, ., _ and -,"
                " of which a letter or a digit comes first",
            )

    @property
    def limits(self) -> Capabilities:
        """What a request may ask of it."""
        return self.capabilities

    @property
    def defaults(self) -> GenerationDefaults:
        """What a request gets that leaves something out."""
        return self.capabilities.defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One loaded part of a model, for example "text_encoder".

    Attributes:
        dtype: what its weights are stored in; a part may need more precision than its model.
    """

    name: str
    parameter_count: int
    size_bytes: int
    dtype: ElementType


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model as one replica holds it: only the components of its own stage.

    Attributes:
        fingerprints: of the parts of the model that the replica sees, its own stage's or others';
            replicas of one model have the same for those that both see.
    """

    model: ModelInfo
    components: tuple[Component, ...]
    fingerprints: tuple[Fingerprint, ...] = ()
