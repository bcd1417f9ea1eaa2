"""What Qwen-Image accepts, read from a directory's configuration."""

from services.domain.stages import DenoiseRequest
from services.model_families.qwen_image.configuration import (
    CLASSES,
    MAX_PROMPT_TOKENS,
    PATCH_SIZE,
    vae_scale_factor,
)
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
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities, GenerationDefaults

_DEFAULTS = GenerationDefaults(width=1024, height=1024, steps=50, guidance_scale=4.0)


def _capabilities(directory: ModelDirectory) -> Capabilities:
    size_multiple = vae_scale_factor(directory) * PATCH_SIZE
    return Capabilities(
        **picture_limits(size_multiple),
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        # One step divides zero by zero: the schedule is stretched to end at shift_terminal.
        min_steps=2,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        supports_previews=True,
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
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, MAX_PROMPT_TOKENS, width),
        image_latents_bytes=0,
        latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        pixels_bytes=pixels_bytes(parameters),
    )


def _residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    latents_bytes = _crossings(directory, request.parameters).latents_bytes
    return packed_residency(directory, request, latents_bytes)


SPEC = FamilySpec(
    name="qwen-image",
    pipeline_classes=frozenset({"QwenImagePipeline"}),
    classes=CLASSES,
    capabilities=_capabilities,
    crossings=_crossings,
    residency=_residency,
)
