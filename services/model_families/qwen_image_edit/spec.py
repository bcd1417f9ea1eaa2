"""What Qwen-Image-Edit accepts, read from a directory's configuration."""

from typing import Final

from services.domain.image_fit import ImageFit
from services.domain.model import Capabilities, GenerationDefaults, Stage
from services.model_api.directory import ModelDirectory
from services.model_api.picture_limits import picture_limits
from services.model_api.qwen_image import CLASSES, PATCH_SIZE, vae_scale_factor
from services.model_api.spec import FamilySpec

MAX_PROMPT_TOKENS = 1024
"""Of a prompt with its template's closing tokens, not counting those of the pictures."""

ONE_PICTURE: Final = "QwenImageEditPipeline"
SEVERAL_PICTURES: Final = "QwenImageEditPlusPipeline"

PICTURE_FIT = ImageFit(area=1024 * 1024, multiple=32)
"""What the VAE sees of a picture, and what is drawn unless a request says otherwise."""

CONDITION_FITS = {
    ONE_PICTURE: PICTURE_FIT,
    SEVERAL_PICTURES: ImageFit(area=384 * 384, multiple=32),
}
"""What the text encoder sees of a picture, by pipeline class."""

_MAX_IMAGES = {ONE_PICTURE: 1, SEVERAL_PICTURES: 3}
_DEFAULTS = GenerationDefaults(width=1024, height=1024, steps=50, guidance_scale=4.0)


def _capabilities(directory: ModelDirectory) -> Capabilities:
    return Capabilities(
        **picture_limits(vae_scale_factor(directory) * PATCH_SIZE),
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        # One step divides zero by zero: the schedule is stretched to end at shift_terminal.
        min_steps=2,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        min_images=1,
        max_images=_MAX_IMAGES[directory.pipeline_class],
        image_fit=PICTURE_FIT,
        defaults=directory.defaults(_DEFAULTS),
    )


SPEC = FamilySpec(
    name="qwen-image-edit",
    pipeline_classes=frozenset(_MAX_IMAGES),
    classes={**CLASSES, "processor": "Qwen2VLProcessor"},
    capabilities=_capabilities,
    configs={
        Stage.ENCODER: ("processor", "tokenizer", "vae"),
        Stage.DENOISER: ("scheduler", "vae"),
        Stage.VAE: (),
    },
)
