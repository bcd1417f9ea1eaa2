"""Knobs of one model family: what a request may turn, and how far."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Literal

from triptych.domain.errors import FieldViolation
from triptych.domain.open_enum import OpenEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """None is what a request left out; in effective values nothing is."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: str

    @property
    def given(self) -> dict[str, Any]:
        """What was not left out, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value for name, value in named.items() if name != "kind" and value is not None
        }

    @property
    def pictures(self) -> int:
        """How many pictures of its size a request draws: one, its layers, or its frames."""
        return 1

    @property
    def frame_rate(self) -> int | None:
        """Frames per second of a video; None for anything else."""
        return None

    @property
    def fitted_area(self) -> int | None:
        """The area in pixels that input images are scaled to; None for the model's own."""
        return None

    @property
    def prompt_written_by(self) -> str | None:
        """The field by which the model is asked to write the prompt; None if it is not."""
        return None

    def conflicts(self) -> Iterator[FieldViolation]:
        """What is wrong with effective values that are each allowed."""
        yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions(_Options):
    """Text-to-video models.

    Attributes:
        low_noise_guidance_scale: of the low-noise expert, where a model has two.
    """

    kind: Literal["video"] = "video"
    num_frames: int | None = None
    frames_per_second: int | None = None
    low_noise_guidance_scale: float | None = None

    @property
    def pictures(self) -> int:
        """Its frames."""
        return self.num_frames or 1

    @property
    def frame_rate(self) -> int | None:
        """Of the video."""
        return self.frames_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredOptions(_Options):
    """Models that take a picture apart into layers.

    Attributes:
        resolution: side in pixels of a square of the area that is drawn.
        caption_image: let the model's own language model write the prompt, which must be empty.
    """

    kind: Literal["layered"] = "layered"
    layers: int | None = None
    resolution: int | None = None
    caption_image: bool | None = None

    @property
    def pictures(self) -> int:
        """Its layers."""
        return self.layers or 1

    @property
    def fitted_area(self) -> int | None:
        """That of the square."""
        return None if self.resolution is None else self.resolution**2

    @property
    def prompt_written_by(self) -> str | None:
        """From the picture."""
        return f"{self.kind}.caption_image" if self.caption_image else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LongCatOptions(_Options):
    """LongCat-Image.

    Attributes:
        rewrite_prompt: let the model's own language model rewrite the prompt before it is encoded.
    """

    kind: Literal["long_cat"] = "long_cat"
    rewrite_prompt: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BagelOptions(_Options):
    """BAGEL.

    Attributes:
        image_guidance_scale: how closely to follow the input image; 1 for not at all.
        guidance_interval_start: guidance is on while the noise level is above this
        guidance_interval_end: and at most this.
    """

    kind: Literal["bagel"] = "bagel"
    image_guidance_scale: float | None = None
    guidance_interval_start: float | None = None
    guidance_interval_end: float | None = None

    def conflicts(self) -> Iterator[FieldViolation]:
        """The interval must not be empty."""
        start, end = self.guidance_interval_start, self.guidance_interval_end
        if start is not None and end is not None and start >= end:
            yield FieldViolation(
                "bagel.guidance_interval_start",
                f"is {start:g}; it must be below guidance_interval_end, which is {end:g}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxOptions(_Options):
    """FLUX.1.

    Attributes:
        true_guidance_scale: of classifier-free guidance by a branch of its own; 1 for none.
    """

    kind: Literal["flux"] = "flux"
    true_guidance_scale: float | None = None


FamilyOptions = VideoOptions | LayeredOptions | LongCatOptions | BagelOptions | FluxOptions
GROUPS: Final[dict[str, type[FamilyOptions]]] = {
    "video": VideoOptions,
    "layered": LayeredOptions,
    "long_cat": LongCatOptions,
    "bagel": BagelOptions,
    "flux": FluxOptions,
}
"""What each group of options is called in a request."""


class OptionKind(OpenEnum):
    """What values an option takes."""

    INTEGER = "integer"
    NUMBER = "number"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionLimits:
    """One knob that a model has; bounds are inclusive.

    Attributes:
        name: its path in a request, for example "video.num_frames".
        step: allowed are the minimum and so much more, and so on; 0 for anything between.
        default: for a switch, 0 is off and 1 is on.
    """

    name: str
    kind: OptionKind
    minimum: float
    maximum: float
    step: float = 0.0
    default: float

    @property
    def group(self) -> str:
        """Which options it is one of, for example "video"."""
        return self.name.partition(".")[0]

    @property
    def field(self) -> str:
        """What it is called among them, for example "num_frames"."""
        return self.name.partition(".")[2]

    @property
    def default_value(self) -> float | bool:
        """The default in the option's own type."""
        match self.kind:
            case OptionKind.SWITCH:
                return bool(self.default)
            case OptionKind.INTEGER:
                return int(self.default)
        return float(self.default)

    def effective(self, asked: FamilyOptions | None) -> float | bool:
        """What a request with these options gets: what it asked of the knob, or the default."""
        given = getattr(asked, self.field, None)
        return self.default_value if given is None else float(given)

    def allows(self, value: float) -> bool:
        """Whether a request may ask for a value."""
        # NaN fails every comparison.
        if not self.minimum <= value <= self.maximum:
            return False
        return not self.step or math.fmod(value - self.minimum, self.step) == 0

    def __str__(self) -> str:
        """The allowed values, for people."""
        if self.kind is OptionKind.SWITCH:
            return "on and off"
        span = f"{self.minimum:g} to {self.maximum:g}"
        if self.step in {0, 1}:
            return span
        if self.minimum + self.step >= self.maximum:
            return f"{self.minimum:g} and {self.maximum:g}"
        first = [f"{self.minimum + self.step * number:g}" for number in range(2)]
        return f"{', '.join(first)} and so on to {self.maximum:g}"


def switch(name: str, *, default: bool) -> OptionLimits:
    """A knob that is on or off."""
    return OptionLimits(
        name=name, kind=OptionKind.SWITCH, minimum=0, maximum=1, step=1, default=float(default)
    )


def option_violations(
    asked: FamilyOptions | None, limits: tuple[OptionLimits, ...]
) -> Iterator[FieldViolation]:
    """What a model cannot honour of what a request asked."""
    if asked is None:
        return
    if not limits or asked.kind != limits[0].group:
        has = f"this model's are {limits[0].group}" if limits else "this model has none"
        yield FieldViolation(asked.kind, f"are options of another model family; {has}")
        return
    known = {option.field: option for option in limits}
    allowed = True
    for name, value in asked.given.items():
        field = f"{asked.kind}.{name}"
        if name not in known:
            allowed = False
            yield FieldViolation(field, "is an option that this model does not have")
        elif not known[name].allows(value):
            allowed = False
            yield FieldViolation(field, f"is {value}; allowed are {known[name]}")
    if allowed:
        effective = effective_options(asked, limits)
        assert effective is not None
        yield from effective.conflicts()


def effective_options(
    asked: FamilyOptions | None, limits: tuple[OptionLimits, ...]
) -> FamilyOptions | None:
    """Allowed options with the model's defaults filled in; None for a model that has none.

    Nor does a client have those that only a newer cluster knows.
    """
    kind = GROUPS.get(limits[0].group) if limits else None
    if kind is None:
        return None
    known = {field.name for field in fields(kind)}
    values: dict[str, Any] = {
        option.field: option.default_value for option in limits if option.field in known
    }
    if asked is not None:
        values |= asked.given
    return kind(**values)
