"""Knobs of one model family; only the served model's own are accepted.

What is None takes the model's default; a ModelInfo says which options a model has, and how far.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """Text-to-video models.

    Attributes:
        low_noise_guidance_scale: of the low-noise expert, where a model has two.
    """

    num_frames: int | None = None
    frames_per_second: int | None = None
    low_noise_guidance_scale: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredOptions:
    """Models that return a picture as layers.

    Attributes:
        resolution: side in pixels of a square of the area that is drawn.
        caption_image: lets the model's own language model write the prompt, which must be empty.
    """

    layers: int | None = None
    resolution: int | None = None
    caption_image: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LongCatOptions:
    """LongCat-Image.

    Attributes:
        rewrite_prompt: lets the model's own language model rewrite the prompt before encoding.
    """

    rewrite_prompt: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BagelOptions:
    """BAGEL.

    Attributes:
        image_guidance_scale: how closely to follow the input image; 1 for not at all.
        guidance_interval_start: guidance is on while the noise level is above this
        guidance_interval_end: and at most this.
    """

    image_guidance_scale: float | None = None
    guidance_interval_start: float | None = None
    guidance_interval_end: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxOptions:
    """FLUX.1.

    Attributes:
        true_guidance_scale: how closely to follow the prompt and stay away from the negative one,
            by a branch of its own, beside the guidance that the model was distilled to; 1 for none.
    """

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
