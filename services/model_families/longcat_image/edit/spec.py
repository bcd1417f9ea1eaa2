"""What LongCat-Image-Edit accepts, read from a directory's configuration."""

from services.domain.stages import DenoiseRequest
from services.model_families.longcat_image.configuration import (
    CLASSES,
    CONFIGS,
    DEFAULTS,
    PATCH_SIZE,
    PROMPT_TOKENS,
)
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
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import Capabilities

_PICTURE_FIT = ImageFit(area=1024 * 1024, multiple=16, rounds_up=True, overridable=False)


def _capabilities(directory: ModelDirectory) -> Capabilities:
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


def _crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
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


def _residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    latents_bytes = _crossings(directory, request.parameters).latents_bytes
    return packed_residency(directory, request, latents_bytes, lists=2)


SPEC = FamilySpec(
    name="longcat-image-edit",
    pipeline_classes=frozenset({"LongCatImageEditPipeline"}),
    classes=CLASSES,
    capabilities=_capabilities,
    crossings=_crossings,
    residency=_residency,
    configs=CONFIGS,
)
