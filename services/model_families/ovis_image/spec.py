"""What Ovis-Image accepts, read from a directory's configuration."""

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import configured_size, image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import cache_support, parallel_support, picture_limits
from services.model_ports.sizes import (
    Crossings,
    LatentSpace,
    Residency,
    packed_residency,
    pixels_bytes,
    prompt_bytes,
)
from services.model_ports.spec import FamilySpec
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities, GenerationDefaults

PROMPT_TOKENS = 256
"""What Qwen3 reads of a prompt after its fixed instruction, the chat's closing tokens included;
shorter prompts are padded to it."""

_PATCH_SIZE = 2
_DEFAULTS = GenerationDefaults(
    width=1024, height=1024, steps=50, guidance_scale=5.0, negative_prompt=""
)


def _capabilities(directory: ModelDirectory) -> Capabilities:
    size_multiple = image_scale_factor(directory) * _PATCH_SIZE
    return Capabilities(
        **picture_limits(size_multiple),
        max_prompt_tokens=PROMPT_TOKENS,
        min_steps=1,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        supports_previews=True,
        cache_support=cache_support(directory, ("num_layers", "num_single_layers"), None),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(_DEFAULTS),
    )


def _crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace.of_image_vae(directory)
    width = configured_size(directory, "transformer/config.json", "joint_attention_dim")
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, PROMPT_TOKENS, width),
        image_latents_bytes=0,
        latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        pixels_bytes=pixels_bytes(parameters),
    )


def _residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    latents_bytes = _crossings(directory, request.parameters).latents_bytes
    return packed_residency(directory, request, latents_bytes, lists=2)


SPECS = (
    FamilySpec(
        name="ovis-image",
        pipeline_classes=frozenset({"OvisImagePipeline"}),
        classes={
            "text_encoder": "Qwen3Model",
            "tokenizer": "Qwen2TokenizerFast",
            "transformer": "OvisImageTransformer2DModel",
            "scheduler": "FlowMatchEulerDiscreteScheduler",
            "vae": "AutoencoderKL",
        },
        capabilities=_capabilities,
        crossings=_crossings,
        residency=_residency,
    ),
)
