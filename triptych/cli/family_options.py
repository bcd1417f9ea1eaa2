"""The arguments of `triptych generate` that only one model family takes."""

from typing import Annotated, Final

import typer

from triptych.domain.family_options import (
    BagelOptions,
    FamilyOptions,
    FluxOptions,
    LayeredOptions,
    LongCatOptions,
    VideoOptions,
)

_VIDEO: Final = "Videos"
_LAYERED: Final = "Layers"
_LONGCAT: Final = "LongCat-Image"
_BAGEL: Final = "BAGEL"
_FLUX: Final = "FLUX.1"

Frames = Annotated[int | None, typer.Option(help="Frames of the video.", rich_help_panel=_VIDEO)]
Fps = Annotated[int | None, typer.Option(help="Frames per second.", rich_help_panel=_VIDEO)]
LowNoiseGuidance = Annotated[
    float | None,
    typer.Option(
        "--low-noise-guidance",
        help="How closely the low-noise expert follows the prompt.",
        rich_help_panel=_VIDEO,
    ),
]
Layers = Annotated[int | None, typer.Option(help="How many.", rich_help_panel=_LAYERED)]
Resolution = Annotated[
    int | None,
    typer.Option(
        help="Side in pixels of a square of the area that is drawn.", rich_help_panel=_LAYERED
    ),
]
CaptionImage = Annotated[
    bool | None,
    typer.Option(
        "--caption-image/--no-caption-image",
        help="Whether the model writes the prompt itself, from the picture.",
        rich_help_panel=_LAYERED,
    ),
]
RewritePrompt = Annotated[
    bool | None,
    typer.Option(
        "--rewrite-prompt/--no-rewrite-prompt",
        help="Whether the model rewrites the prompt before it draws.",
        rich_help_panel=_LONGCAT,
    ),
]
ImageGuidance = Annotated[
    float | None,
    typer.Option(help="How closely to follow the input picture.", rich_help_panel=_BAGEL),
]
GuidanceInterval = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="START END",
        help="Guidance is on while the noise level is above START and at most END.",
        rich_help_panel=_BAGEL,
    ),
]
TrueGuidance = Annotated[
    float | None,
    typer.Option(
        help="How closely to follow the prompt rather than the negative one; above 1, twice the"
        " work.",
        rich_help_panel=_FLUX,
    ),
]

_FLAGS: Final = {
    "num_frames": "--frames",
    "frames_per_second": "--fps",
    "low_noise_guidance_scale": "--low-noise-guidance",
    "layers": "--layers",
    "resolution": "--resolution",
    "caption_image": "--caption-image",
    "rewrite_prompt": "--rewrite-prompt",
    "image_guidance_scale": "--image-guidance",
    "guidance_interval_start": "--guidance-interval",
    "true_guidance_scale": "--true-guidance",
}


def by_number(
    frames: int | None,
    fps: int | None,
    low_noise_guidance: float | None,
    layers: int | None,
    resolution: int | None,
    caption_image: bool | None,
) -> tuple[FamilyOptions, ...]:
    """The options of families whose results are several pictures."""
    video = VideoOptions(
        num_frames=frames,
        frames_per_second=fps,
        low_noise_guidance_scale=low_noise_guidance,
    )
    layered = LayeredOptions(layers=layers, resolution=resolution, caption_image=caption_image)
    return video, layered


def by_guidance(
    rewrite_prompt: bool | None,
    image_guidance: float | None,
    interval: tuple[float, float] | None,
    true_guidance: float | None,
) -> tuple[FamilyOptions, ...]:
    """The options of the other families; an interval is given whole or not at all."""
    start, end = interval or (None, None)
    bagel = BagelOptions(
        image_guidance_scale=image_guidance,
        guidance_interval_start=start,
        guidance_interval_end=end,
    )
    long_cat = LongCatOptions(rewrite_prompt=rewrite_prompt)
    return long_cat, bagel, FluxOptions(true_guidance_scale=true_guidance)


def of_one_family(*candidates: FamilyOptions) -> FamilyOptions | None:
    """The candidate that anything was given of, if there is one.

    Raises:
        typer.BadParameter: there are several.
    """
    given = [each for each in candidates if each != type(each)()]
    if len(given) > 1:
        flags = " and ".join(map(_first_flag, given))
        raise typer.BadParameter(
            "are options of different model families; give those of one", param_hint=flags
        )
    return given[0] if given else None


def _first_flag(options: FamilyOptions) -> str:
    return next(_FLAGS[name] for name in options.given)
