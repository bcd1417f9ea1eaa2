"""What to generate: as it was asked, and as it will be done."""

import math
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from triptych.domain.acceleration import Cache, cache_violations, effective_cache
from triptych.domain.element_type import ElementType
from triptych.domain.errors import FieldViolation, InvalidRequest
from triptych.domain.family_options import (
    FamilyOptions,
    effective_options,
    option_violations,
)
from triptych.domain.image_fit import ImageFit
from triptych.domain.input_image import InputImage
from triptych.domain.model import Capabilities, MediaFormat, Model

MAX_SEED = 2**63 - 1
# Beyond it a side of a picture that is scaled to a usual area would round to nothing.
MAX_ASPECT_RATIO = 16
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")

T = TypeVar("T")


class GenerationRequest(BaseModel):
    """What a client asked; None is what it left out."""

    model_config = ConfigDict(frozen=True)

    model: str = ""
    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    dtype: ElementType | None = None
    cache: Cache | None = None
    media_format: MediaFormat | None = None
    images: tuple[InputImage, ...] = ()
    preview_every_steps: int = 0
    options: FamilyOptions | None = None


class GenerationParameters(BaseModel):
    """Effective values: valid for the model, defaults filled in, the seed drawn.

    Attributes:
        negative_prompt: None when guidance is off.
        images: input images in the request's order; their bytes travel apart.
        preview_every_steps: 0 for no previews.
        options: of the model's family; None where it has none.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    dtype: ElementType
    cache: Cache
    media_format: MediaFormat
    images: tuple[InputImage, ...] = ()
    preview_every_steps: int = 0
    options: FamilyOptions | None = None

    @property
    def guided(self) -> bool:
        """Whether each step runs a second, unconditional branch."""
        return self.negative_prompt is not None

    @property
    def pixel_steps(self) -> int:
        """Width x height x frames or layers x steps: what the request takes, about."""
        return self.width * self.height * self.steps * self.pictures

    @property
    def pictures(self) -> int:
        """How many pictures of its size are drawn: one, or the layers or frames."""
        return 1 if self.options is None else self.options.pictures


def resolve(
    request: GenerationRequest, model: Model, draw_seed: Callable[[], int]
) -> GenerationParameters:
    """Checks a request against a model and fills in what it left out.

    Args:
        request: what the client asked.
        model: the model it named.
        draw_seed: called once if the request has no seed; returns 0 to MAX_SEED.

    Raises:
        InvalidRequest: with every violation found.
    """
    defaults = model.capabilities.defaults
    guidance_scale = _either(request.guidance_scale, defaults.guidance_scale)
    guided = model.capabilities.guides(guidance_scale, request.options)
    violations = list(_violations(request, model, guided=guided))
    if violations:
        raise InvalidRequest(violations)
    width, height = _size(request, model.capabilities)
    steps = _either(request.steps, defaults.steps)
    return GenerationParameters(
        model=model.name,
        prompt=request.prompt,
        negative_prompt=_either(request.negative_prompt, defaults.negative_prompt)
        if guided
        else None,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance_scale,
        seed=draw_seed() if request.seed is None else request.seed,
        dtype=model.dtype,
        cache=_cache(request.cache, model.capabilities, steps),
        media_format=_either(request.media_format, model.capabilities.media_formats[0]),
        images=request.images,
        preview_every_steps=request.preview_every_steps,
        options=effective_options(request.options, model.capabilities.options),
    )


def _cache(asked: Cache | None, limits: Capabilities, steps: int) -> Cache:
    return (
        limits.default_cache(steps)
        if asked is None
        else effective_cache(asked, limits.cache_support)
    )


def _either(asked: T | None, default: T) -> T:
    return default if asked is None else asked


def _violations(
    request: GenerationRequest, model: Model, *, guided: bool
) -> Iterator[FieldViolation]:
    capabilities = model.capabilities
    yield from _text_violations(request, capabilities, guided=guided)
    wrong_options = list(option_violations(request.options, capabilities.options))
    yield from wrong_options
    usable = request.model_copy(update={"options": None}) if wrong_options else request
    yield from _size_violations(usable, capabilities)
    yield from _loop_violations(request, capabilities)
    yield from _choice_violations(request, model)


def _text_violations(
    request: GenerationRequest, limits: Capabilities, *, guided: bool
) -> Iterator[FieldViolation]:
    written_by = None if request.options is None else request.options.prompt_written_by
    if written_by is not None and request.prompt:
        yield FieldViolation(written_by, "is on; leave the prompt empty, or it off")
    elif written_by is None and not request.prompt.strip():
        yield FieldViolation("prompt", "is empty; say what to draw")
    negative = request.negative_prompt
    for field, text in (("prompt", request.prompt), ("negative_prompt", negative or "")):
        if len(text) > limits.max_prompt_characters:
            allowed = f"allowed are at most {limits.max_prompt_characters}"
            yield FieldViolation(field, f"has {len(text)} characters; {allowed}")
        elif _CONTROL_CHARACTER.search(text):
            yield FieldViolation(field, "contains control characters; allowed is plain text")
    if negative is not None and not guided:
        why = (
            f"has no effect unless {limits.guidance_field} is above {limits.guidance_off_scale:g}"
            if limits.supports_negative_prompt
            else "is not used by this model"
        )
        yield FieldViolation("negative_prompt", f"{why}; leave it out")


def _size(request: GenerationRequest, limits: Capabilities) -> tuple[int, int]:
    """Width and height of a request whose images and options are allowed."""
    fit, defaults = _fit(request, limits), limits.defaults
    size = (defaults.width, defaults.height)
    if fit is not None and request.images:
        last = request.images[-1]
        size = fit.size(last.width, last.height)
    return _either(request.width, size[0]), _either(request.height, size[1])


def _fit(request: GenerationRequest, limits: Capabilities) -> ImageFit | None:
    options = effective_options(request.options, limits.options)
    area = None if options is None else options.fitted_area
    if limits.image_fit is None or area is None:
        return limits.image_fit
    return limits.image_fit.model_copy(update={"area": area})


def _size_violations(request: GenerationRequest, limits: Capabilities) -> Iterator[FieldViolation]:
    image_violations = list(_image_violations(request, limits))
    yield from image_violations
    sides_fit = not image_violations
    for field, side, fitted in _asked_sides(request, limits, fits=sides_fit):
        if fitted is not None and side != fitted:
            sides_fit = False
            yield FieldViolation(field, f"is {side}; it follows from the input image: {fitted}")
        elif not limits.min_side <= side <= limits.max_side or side % limits.size_multiple:
            sides_fit = False
            yield FieldViolation(
                field,
                f"is {side}; allowed are multiples of {limits.size_multiple}"
                f" from {limits.min_side} to {limits.max_side}",
            )
    if not sides_fit:
        return
    width, height = _size(request, limits)
    for field, side in (("width", width), ("height", height)):
        if not limits.min_side <= side <= limits.max_side:
            yield FieldViolation(
                field,
                f"would be {side}, by the input image;"
                f" allowed are {limits.min_side} to {limits.max_side}",
            )
    if width * height > limits.max_pixels:
        yield FieldViolation(
            "width",
            f"times height is {width * height} pixels; allowed are at most {limits.max_pixels}",
        )


def _asked_sides(
    request: GenerationRequest, limits: Capabilities, *, fits: bool
) -> Iterator[tuple[str, int, int | None]]:
    """The sides a request asks for, each with the only one it may have, where there is one.

    Args:
        request: what the client asked.
        limits: of the model.
        fits: whether a size can follow from its images.
    """
    fit = _fit(request, limits)
    fixed = fits and fit is not None and not fit.overridable and request.images
    unsized = request.model_copy(update={"width": None, "height": None})
    only = _size(unsized, limits) if fixed else (None, None)
    for field, side, fitted in (
        ("width", request.width, only[0]),
        ("height", request.height, only[1]),
    ):
        if side is not None:
            yield field, side, fitted


def _image_violations(request: GenerationRequest, limits: Capabilities) -> Iterator[FieldViolation]:
    given, fewest, most = len(request.images), limits.min_images, limits.max_images
    if not most and given:
        yield FieldViolation("images", f"are {given}; this model takes none")
    elif not fewest <= given <= most:
        allowed = str(fewest) if fewest == most else f"{fewest} to {most}"
        yield FieldViolation("images", f"are {given}; this model takes {allowed}")
    for number, image in enumerate(request.images):
        if not image.width * image.height:
            yield FieldViolation(f"images[{number}]", "has no pixels")
        elif max(image.width, image.height) > MAX_ASPECT_RATIO * min(image.width, image.height):
            yield FieldViolation(
                f"images[{number}]",
                f"is {image.width} x {image.height} pixels;"
                f" allowed is at most {MAX_ASPECT_RATIO} times as long as wide",
            )


def _loop_violations(request: GenerationRequest, limits: Capabilities) -> Iterator[FieldViolation]:
    steps, scale, seed = request.steps, request.guidance_scale, request.seed
    if steps is not None and not limits.min_steps <= steps <= limits.max_steps:
        yield FieldViolation(
            "steps", f"is {steps}; allowed are {limits.min_steps} to {limits.max_steps}"
        )
    if scale is not None:
        low, high = limits.min_guidance_scale, limits.max_guidance_scale
        # NaN fails every comparison, so it must be asked for by name.
        if not math.isfinite(scale) or not low <= scale <= high:
            yield FieldViolation("guidance_scale", f"is {scale}; allowed are {low:g} to {high:g}")
        elif scale > low and not limits.supports_guidance:
            yield FieldViolation("guidance_scale", f"is {scale}; this model has no guidance")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        yield FieldViolation("seed", f"is {seed}; allowed are 0 to {MAX_SEED}")


def _choice_violations(request: GenerationRequest, model: Model) -> Iterator[FieldViolation]:
    limits = model.capabilities
    if request.dtype is not None and request.dtype is not model.dtype:
        yield FieldViolation(
            "dtype", f"is {request.dtype}; this cluster runs {model.name} in {model.dtype}"
        )
    if request.cache is not None:
        steps = _either(request.steps, limits.defaults.steps)
        yield from cache_violations(request.cache, limits.cache_support, steps)
    yield from _preview_violations(request, limits)
    if request.media_format is not None and request.media_format not in limits.media_formats:
        allowed = ", ".join(limits.media_formats)
        yield FieldViolation("media_format", f"is {request.media_format}; allowed are {allowed}")


def _preview_violations(
    request: GenerationRequest, limits: Capabilities
) -> Iterator[FieldViolation]:
    every, steps = request.preview_every_steps, _either(request.steps, limits.defaults.steps)
    if every and not limits.supports_previews:
        yield FieldViolation("preview_every_steps", f"is {every}; this model has no previews")
    elif not 0 <= every <= steps:
        allowed = f"allowed are 0 (none) to {steps}, the request's steps"
        yield FieldViolation("preview_every_steps", f"is {every}; {allowed}")
