"""What to generate: as it was asked, and as it will be done."""

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from services.domain.acceleration import CacheMethod
from services.domain.element_type import ElementType
from services.domain.errors import FieldViolation, InvalidRequest
from services.domain.model import Capabilities, MediaFormat, Model

MAX_SEED = 2**63 - 1

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
    cache: CacheMethod | None = None
    media_format: MediaFormat | None = None


class GenerationParameters(BaseModel):
    """Effective values: valid for the model, defaults filled in, the seed drawn.

    Attributes:
        negative_prompt: None when guidance is off.
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
    cache: CacheMethod
    media_format: MediaFormat

    @property
    def guided(self) -> bool:
        """Whether each step runs a second, unconditional branch."""
        return self.negative_prompt is not None


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
    guided = model.capabilities.guides(guidance_scale)
    violations = list(_violations(request, model, guided=guided))
    if violations:
        raise InvalidRequest(violations)
    return GenerationParameters(
        model=model.name,
        prompt=request.prompt,
        negative_prompt=_either(request.negative_prompt, defaults.negative_prompt)
        if guided
        else None,
        width=_either(request.width, defaults.width),
        height=_either(request.height, defaults.height),
        steps=_either(request.steps, defaults.steps),
        guidance_scale=guidance_scale,
        seed=draw_seed() if request.seed is None else request.seed,
        dtype=model.dtype,
        cache=_either(request.cache, CacheMethod.NONE),
        media_format=_either(request.media_format, model.capabilities.media_formats[0]),
    )


def _either(asked: T | None, default: T) -> T:
    return default if asked is None else asked


def _violations(
    request: GenerationRequest, model: Model, *, guided: bool
) -> Iterator[FieldViolation]:
    capabilities = model.capabilities
    yield from _text_violations(request, capabilities, guided=guided)
    yield from _size_violations(request, capabilities)
    yield from _loop_violations(request, capabilities)
    yield from _choice_violations(request, model)


def _text_violations(
    request: GenerationRequest, limits: Capabilities, *, guided: bool
) -> Iterator[FieldViolation]:
    if not request.prompt.strip():
        yield FieldViolation("prompt", "is empty; say what to draw")
    negative = request.negative_prompt
    for field, text in (("prompt", request.prompt), ("negative_prompt", negative or "")):
        if len(text) > limits.max_prompt_characters:
            allowed = f"allowed are at most {limits.max_prompt_characters}"
            yield FieldViolation(field, f"has {len(text)} characters; {allowed}")
        if any(ord(each) < 32 and each not in "\t\n\r" for each in text):
            yield FieldViolation(field, "contains control characters; allowed is plain text")
    if negative is not None and not guided:
        why = (
            f"has no effect unless guidance_scale is above {limits.guidance_off_scale:g}"
            if limits.supports_negative_prompt
            else "is not used by this model"
        )
        yield FieldViolation("negative_prompt", f"{why}; leave it out")


def _size_violations(request: GenerationRequest, limits: Capabilities) -> Iterator[FieldViolation]:
    sides_fit = True
    for field, side in (("width", request.width), ("height", request.height)):
        if side is None:
            continue
        if not limits.min_side <= side <= limits.max_side or side % limits.size_multiple:
            sides_fit = False
            yield FieldViolation(
                field,
                f"is {side}; allowed are multiples of {limits.size_multiple}"
                f" from {limits.min_side} to {limits.max_side}",
            )
    width = _either(request.width, limits.defaults.width)
    height = _either(request.height, limits.defaults.height)
    if sides_fit and width * height > limits.max_pixels:
        yield FieldViolation(
            "width",
            f"times height is {width * height} pixels; allowed are at most {limits.max_pixels}",
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
        elif scale > limits.guidance_off_scale and not limits.supports_guidance:
            yield FieldViolation("guidance_scale", f"is {scale}; this model has no guidance")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        yield FieldViolation("seed", f"is {seed}; allowed are 0 to {MAX_SEED}")


def _choice_violations(request: GenerationRequest, model: Model) -> Iterator[FieldViolation]:
    limits = model.capabilities
    if request.dtype is not None and request.dtype is not model.dtype:
        yield FieldViolation(
            "dtype", f"is {request.dtype}; this cluster runs {model.name} in {model.dtype}"
        )
    if request.cache is not None and request.cache not in limits.cache_methods:
        allowed = ", ".join(limits.cache_methods)
        yield FieldViolation("acceleration.cache", f"is {request.cache}; allowed are {allowed}")
    if request.media_format is not None and request.media_format not in limits.media_formats:
        allowed = ", ".join(limits.media_formats)
        yield FieldViolation("media_format", f"is {request.media_format}; allowed are {allowed}")
