"""What LongCat-Image accepts, read from a directory's configuration."""

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
from triptych.domain.family_options import switch
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities

# The published pipeline rewrites prompts unless it is told not to; here a prompt is drawn as it was
# written unless a request says otherwise, since rewriting takes longer than many a drawing.
_REWRITE_PROMPT = switch("long_cat.rewrite_prompt", default=False)


def _capabilities(directory: ModelDirectory) -> Capabilities:
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


SPEC = FamilySpec(
    name="longcat-image",
    pipeline_classes=frozenset({"LongCatImagePipeline"}),
    classes=CLASSES,
    capabilities=_capabilities,
    crossings=_crossings,
    residency=_residency,
    configs=CONFIGS,
)
