"""What a served model is, accepts, and does with what is left out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a request may ask of a model; bounds are inclusive, sides are in pixels."""

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
    supports_negative_prompt: bool
    guidance_off_scale: float
    media_formats: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDefaults:
    """Values for what a request leaves out.

    Attributes:
        negative_prompt: used when guidance is on and the request has none.
    """

    width: int
    height: int
    steps: int
    guidance_scale: float
    negative_prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A served model.

    Attributes:
        family: for example "qwen-image".
        dtype: the type the served weights compute in, for example "float32".
    """

    name: str
    family: str
    dtype: str
    limits: ModelLimits
    defaults: ModelDefaults
