"""What to generate: as it was asked, and as it will be done."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Final, TypedDict, TypeVar

from annotated_types import Interval

from triptych.domain.acceleration import Cache, cache_violations, effective_cache
from triptych.domain.element_type import ElementType
from triptych.domain.errors import FieldViolation, InvalidRequest
from triptych.domain.family_options import (
    FamilyOptions,
    effective_options,
    option_violations,
)
from triptych.domain.image_fit import ImageFit
from triptych.domain.input_image import ImageDescription, InputImage
from triptych.domain.limits import Among, AtMost, OneOf, Within, limit_violations, out_of_bounds
from triptych.domain.model import Capabilities, MediaFormat, ModelInfo
from triptych.domain.output_options import OutputOptions, effective_output, output_violations

MAX_SEED: Final = 2**63 - 1
MAX_NUM_IMAGES: Final = 16
# Beyond it a side of a picture that is scaled to a usual area would round to nothing.
MAX_ASPECT_RATIO: Final = 16
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")

T = TypeVar("T")
_COMPUTED_IN: Final = Among((ElementType.FLOAT32, ElementType.BFLOAT16, ElementType.FLOAT16))
_SIDE: Final = Within("min_side", "max_side", multiple_of="size_multiple")
_TEXT: Final = AtMost("max_prompt_characters", "characters")


class RequestOptions(TypedDict, total=False):
    """The keywords that every generating call takes; see GenerationRequest."""

    model: str | None
    negative_prompt: str | None
    width: int | None
    height: int | None
    steps: int | None
    guidance_scale: float | None
    seed: int | None
    dtype: str | None
    images: Sequence[InputImage]
    media_format: str | None
    options: FamilyOptions | None
    cache: Cache | None
    preview_every_steps: int | None
    output: OutputOptions | None
    num_images: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What to generate. What is None takes the model's default.

    Beside a field stands what bounds it: a number, or the capability of the model that says it.

    Attributes:
        prompt: what to draw.
        model: a served model's name; may be None while the cluster serves exactly one.
        negative_prompt: what not to draw; only with a guidance_scale above 1.
        width: in pixels.
        height: in pixels.
        steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 switches it off.
        seed: drawn by the cluster if None, and reported.
        dtype: refuses the request unless the model runs in this type, an ElementType.
        images: pictures to start from, in order: each one the bytes of a PNG, JPEG or WebP file,
            the path of one (never a URL), or what `upload_image` returned; inside a cluster, what
            it read from their headers.
        media_format: "png", "jpeg" or "webp"; "mp4" for a video; "png_archive" for layers or frames
            in a ZIP file.
        options: knobs of the model's family, for example VideoOptions.
        cache: how to reuse work between steps, for example TeaCache(rel_l1_thresh=0.2).
        preview_every_steps: a Preview among the events after every so many steps; 0 for none.
        output: how the picture is compressed, for example OutputOptions(quality=80).
        num_images: results, with the seeds seed, seed + 1, and so on.
    """

    prompt: Annotated[str, _TEXT]
    model: str | None = None
    negative_prompt: Annotated[str | None, _TEXT] = None
    width: Annotated[int | None, _SIDE] = None
    height: Annotated[int | None, _SIDE] = None
    steps: Annotated[int | None, Within("min_steps", "max_steps")] = None
    guidance_scale: Annotated[float | None, Within("min_guidance_scale", "max_guidance_scale")] = (
        None
    )
    seed: Annotated[int | None, Interval(ge=0, le=MAX_SEED)] = None
    dtype: Annotated[str | None, ElementType, _COMPUTED_IN] = None
    images: Sequence[InputImage | ImageDescription] = ()
    media_format: Annotated[str | None, MediaFormat, OneOf("media_formats")] = None
    options: FamilyOptions | None = None
    cache: Cache | None = None
    preview_every_steps: int | None = None
    output: OutputOptions | None = None
    num_images: Annotated[int | None, Interval(ge=1, le=MAX_NUM_IMAGES)] = None

    @property
    def described_images(self) -> tuple[ImageDescription, ...]:
        """Its images, as far as the cluster has read their headers."""
        return tuple(image for image in self.images if isinstance(image, ImageDescription))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """Effective values: valid for the model, defaults filled in, the seed drawn.

    Attributes:
        negative_prompt: None when guidance is off.
        images: input images in the request's order; their bytes travel apart.
        preview_every_steps: 0 for no previews.
        options: of the model's family; None where it has none.
    """

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
    images: tuple[ImageDescription, ...] = ()
    preview_every_steps: int = 0
    options: FamilyOptions | None = None
    output: OutputOptions | None = None
    num_images: int = 1

    @property
    def request(self) -> GenerationRequest:
        """The request that asks for exactly these."""
        return GenerationRequest(
            **{field.name: getattr(self, field.name) for field in fields(GenerationRequest)}
        )

    @property
    def guided(self) -> bool:
        """Whether each step runs a second, unconditional branch."""
        return self.negative_prompt is not None

    def alone(self, index: int) -> "GenerationParameters":
        """One of several results, as a request for it alone has it."""
        return replace(self, seed=self.seed + index, num_images=1)

    @property
    def pixel_steps(self) -> int:
        """Width x height x frames or layers x steps x results: what the request takes, about."""
        return self.width * self.height * self.steps * self.pictures * self.num_images

    @property
    def pictures(self) -> int:
        """How many pictures of its size are drawn: one, or the layers or frames."""
        return 1 if self.options is None else self.options.pictures


def resolve(
    request: GenerationRequest, model: ModelInfo, draw_seed: Callable[[], int]
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
    media_format = MediaFormat(request.media_format or model.limits.media_formats[0])
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
        media_format=media_format,
        images=request.described_images,
        preview_every_steps=request.preview_every_steps or 0,
        output=effective_output(request.output, media_format),
        num_images=request.num_images or 1,
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
    request: GenerationRequest, model: ModelInfo, *, guided: bool
) -> Iterator[FieldViolation]:
    capabilities = model.capabilities
    yield from limit_violations(request, capabilities, beside=("width", "height"))
    yield from _text_violations(request, capabilities, guided=guided)
    wrong_options = list(option_violations(request.options, capabilities.options))
    yield from wrong_options
    usable = replace(request, options=None) if wrong_options else request
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
        # A text that is too long is refused already, and not looked at.
        if len(text) <= limits.max_prompt_characters and _CONTROL_CHARACTER.search(text):
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
    if fit is not None and (described := request.described_images):
        last = described[-1]
        size = fit.size(last.width, last.height)
    return _either(request.width, size[0]), _either(request.height, size[1])


def _fit(request: GenerationRequest, limits: Capabilities) -> ImageFit | None:
    options = effective_options(request.options, limits.options)
    area = None if options is None else options.fitted_area
    if limits.image_fit is None or area is None:
        return limits.image_fit
    return replace(limits.image_fit, area_pixels=area)


def _size_violations(request: GenerationRequest, limits: Capabilities) -> Iterator[FieldViolation]:
    image_violations = list(_image_violations(request, limits))
    yield from image_violations
    sides_fit = not image_violations
    for field, side, fitted in _asked_sides(request, limits, fits=sides_fit):
        if fitted is not None and side != fitted:
            sides_fit = False
            yield FieldViolation(field, f"is {side}; it follows from the input image: {fitted}")
        elif (wrong := out_of_bounds(side, _SIDE, limits)) is not None:
            sides_fit = False
            yield FieldViolation(field, wrong)
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
    unsized = replace(request, width=None, height=None)
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
    for number, image in enumerate(request.described_images):
        if not image.width * image.height:
            yield FieldViolation(f"images[{number}]", "has no pixels")
        elif max(image.width, image.height) > MAX_ASPECT_RATIO * min(image.width, image.height):
            yield FieldViolation(
                f"images[{number}]",
                f"is {image.width} x {image.height} pixels;"
                f" allowed is at most {MAX_ASPECT_RATIO} times as long as wide",
            )


def _loop_violations(request: GenerationRequest, limits: Capabilities) -> Iterator[FieldViolation]:
    scale, low = request.guidance_scale, limits.min_guidance_scale
    allowed = scale is not None and low < scale <= limits.max_guidance_scale
    if allowed and not limits.supports_guidance:
        yield FieldViolation("guidance_scale", f"is {scale}; this model has no guidance")


def _choice_violations(request: GenerationRequest, model: ModelInfo) -> Iterator[FieldViolation]:
    limits = model.capabilities
    if request.dtype is not None and request.dtype != model.dtype:
        yield FieldViolation(
            "dtype", f"is {request.dtype}; this cluster runs {model.name} in {model.dtype}"
        )
    if request.cache is not None:
        steps = _either(request.steps, limits.defaults.steps)
        yield from cache_violations(request.cache, limits.cache_support, steps)
    if (chosen := request.media_format or limits.media_formats[0]) in limits.media_formats:
        yield from output_violations(request.output, MediaFormat(chosen))
    last = (request.seed or 0) + (request.num_images or 1) - 1
    if request.seed is not None and request.seed <= MAX_SEED < last:
        allowed = f"allowed are 0 to {MAX_SEED}"
        yield FieldViolation("seed", f"would be {last} for the last image; {allowed}")
    yield from _preview_violations(request, limits)


def _preview_violations(
    request: GenerationRequest, limits: Capabilities
) -> Iterator[FieldViolation]:
    every, steps = request.preview_every_steps or 0, _either(request.steps, limits.defaults.steps)
    if every and not limits.supports_previews:
        yield FieldViolation("preview_every_steps", f"is {every}; this model has no previews")
    elif not 0 <= every <= steps:
        allowed = f"allowed are 0 (none) to {steps}, the request's steps"
        yield FieldViolation("preview_every_steps", f"is {every}; {allowed}")
