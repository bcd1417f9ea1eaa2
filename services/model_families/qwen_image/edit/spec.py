"""What Qwen-Image-Edit accepts, read from a directory's configuration."""

from typing import Final

from services.domain.stages import DenoiseRequest
from services.model_families.qwen_image.configuration import CLASSES, PATCH_SIZE, vae_scale_factor
from services.model_files.configuration import configured_size
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import (
    QWEN_IMAGE_COEFFICIENTS,
    cache_support,
    parallel_support,
    picture_limits,
)
from services.model_ports.sizes import (
    Crossings,
    LatentSpace,
    Residency,
    packed_residency,
    pixels_bytes,
    prompt_bytes,
)
from services.model_ports.spec import FamilySpec
from services.numerics.qwen_vision import picture_tokens
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import Capabilities, GenerationDefaults, Stage

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

# Around a picture's tokens, at most: one for each letter of "Picture 1: ", and two markers. Of one
# picture they are part of the template, which is counted with the prompt.
_LABEL_TOKENS = {ONE_PICTURE: 0, SEVERAL_PICTURES: 13}

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
        supports_previews=True,
        min_images=1,
        max_images=_MAX_IMAGES[directory.pipeline_class],
        image_fit=PICTURE_FIT,
        cache_support=cache_support(directory, ("num_layers",), QWEN_IMAGE_COEFFICIENTS),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(_DEFAULTS),
    )


def _crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace(
        configured_size(directory, "vae/config.json", "z_dim"), vae_scale_factor(directory)
    )
    width = configured_size(directory, "transformer/config.json", "joint_attention_dim")
    condition_fit = CONDITION_FITS[directory.pipeline_class]
    tokens = MAX_PROMPT_TOKENS
    image_latents = 0
    for image in parameters.images:
        seen = condition_fit.size(image.width, image.height)
        tokens += _LABEL_TOKENS[directory.pipeline_class] + picture_tokens(*seen)
        encoded = PICTURE_FIT.size(image.width, image.height)
        image_latents += space.size_bytes(*encoded, parameters.dtype)
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, tokens, width),
        image_latents_bytes=image_latents,
        latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        pixels_bytes=pixels_bytes(parameters),
    )


def _residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    latents_bytes = _crossings(directory, request.parameters).latents_bytes
    return packed_residency(directory, request, latents_bytes)


SPEC = FamilySpec(
    name="qwen-image-edit",
    pipeline_classes=frozenset(_MAX_IMAGES),
    classes={**CLASSES, "processor": "Qwen2VLProcessor"},
    capabilities=_capabilities,
    crossings=_crossings,
    residency=_residency,
    configs={
        Stage.ENCODER: ("processor", "tokenizer", "transformer", "vae"),
        Stage.DENOISER: ("scheduler", "vae"),
        Stage.VAE: ("transformer",),
    },
)
