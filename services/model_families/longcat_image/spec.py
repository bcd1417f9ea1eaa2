"""What LongCat-Image and LongCat-Image-Edit accept, read from a directory's configuration."""

from typing import Final

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import configured_size, image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import (
    LONGCAT_COEFFICIENTS,
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
from triptych.domain.family_options import switch
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import Capabilities, GenerationDefaults, Stage

EDIT: Final = "LongCatImageEditPipeline"
"""The pipeline class of the model that edits a picture."""

PROMPT_TOKENS = 512
"""What Qwen2.5-VL reads of a prompt, a token for each quoted character; shorter prompts are padded
to it."""

PATCH_SIZE = 2
"""Latents per token, on each side."""

CLASSES = {
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    "text_processor": "Qwen2VLProcessor",
    "tokenizer": "Qwen2Tokenizer",
    "transformer": "LongCatImageTransformer2DModel",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "vae": "AutoencoderKL",
}
"""By subfolder, the class that reads it."""

CONFIGS = {
    Stage.ENCODER: ("text_processor", "tokenizer", "transformer", "vae"),
    Stage.DENOISER: ("scheduler", "vae"),
    Stage.VAE: ("transformer",),
}
"""By stage, the subfolders of which it needs no weights."""

DEFAULTS = GenerationDefaults(
    width=1024, height=1024, steps=50, guidance_scale=4.5, negative_prompt=""
)


# The published pipeline rewrites prompts unless it is told not to; here a prompt is drawn as it was
# written unless a request says otherwise, since rewriting takes longer than many a drawing.
_REWRITE_PROMPT = switch("long_cat.rewrite_prompt", default=False)


def _base_capabilities(directory: ModelDirectory) -> Capabilities:
    return Capabilities(
        **picture_limits(image_scale_factor(directory) * PATCH_SIZE),
        max_prompt_tokens=PROMPT_TOKENS,
        min_steps=1,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        supports_previews=True,
        options=(_REWRITE_PROMPT,),
        cache_support=cache_support(
            directory, ("num_layers", "num_single_layers"), LONGCAT_COEFFICIENTS
        ),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(DEFAULTS),
    )


def _base_crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace.of_image_vae(directory)
    width = configured_size(directory, "transformer/config.json", "joint_attention_dim")
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, PROMPT_TOKENS, width),
        image_latents_bytes=0,
        latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        pixels_bytes=pixels_bytes(parameters),
    )


def _base_residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    latents_bytes = _base_crossings(directory, request.parameters).latents_bytes
    return packed_residency(directory, request, latents_bytes, lists=2)


_BASE = FamilySpec(
    name="longcat-image",
    pipeline_classes=frozenset({"LongCatImagePipeline"}),
    classes=CLASSES,
    capabilities=_base_capabilities,
    crossings=_base_crossings,
    residency=_base_residency,
    configs=CONFIGS,
)


_PICTURE_FIT = ImageFit(area_pixels=1024 * 1024, multiple=16, rounds_up=True, overridable=False)


def _edit_capabilities(directory: ModelDirectory) -> Capabilities:
    return Capabilities(
        **picture_limits(image_scale_factor(directory) * PATCH_SIZE),
        # Not counting those of the picture.
        max_prompt_tokens=PROMPT_TOKENS,
        min_steps=1,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        supports_previews=True,
        min_images=1,
        max_images=1,
        image_fit=_PICTURE_FIT,
        cache_support=cache_support(
            directory, ("num_layers", "num_single_layers"), LONGCAT_COEFFICIENTS
        ),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(DEFAULTS),
    )


def _edit_crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace.of_image_vae(directory)
    width = configured_size(directory, "transformer/config.json", "joint_attention_dim")
    # The picture is seen at half its size, between two markers.
    tokens = PROMPT_TOKENS + picture_tokens(parameters.width // 2, parameters.height // 2) + 2
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, tokens, width),
        image_latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        pixels_bytes=pixels_bytes(parameters),
    )


def _edit_residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    latents_bytes = _edit_crossings(directory, request.parameters).latents_bytes
    return packed_residency(directory, request, latents_bytes, lists=2)


_EDIT = FamilySpec(
    name="longcat-image-edit",
    pipeline_classes=frozenset({EDIT}),
    classes=CLASSES,
    capabilities=_edit_capabilities,
    crossings=_edit_crossings,
    residency=_edit_residency,
    configs=CONFIGS,
)


SPECS = (_BASE, _EDIT)
