"""What Z-Image accepts, read from a directory's configuration."""

import math

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import configured_size, image_scale_factor
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
    pixels_bytes,
    prompt_bytes,
    prompt_tokens,
    state_bytes,
)
from services.model_ports.spec import FamilySpec
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities, GenerationDefaults

MAX_PROMPT_TOKENS = 512
"""What the published pipeline reads of a prompt inside its chat template."""

_PATCH_SIZE = 2
_TOKENS_MULTIPLE = 32
_DEFAULTS = GenerationDefaults(
    width=1024, height=1024, steps=50, guidance_scale=5.0, negative_prompt=""
)


def _capabilities(directory: ModelDirectory) -> Capabilities:
    size_multiple = image_scale_factor(directory) * _PATCH_SIZE
    return Capabilities(
        **picture_limits(size_multiple),
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        min_steps=1,
        supports_guidance=True,
        min_guidance_scale=0.0,
        max_guidance_scale=20.0,
        supports_previews=True,
        # The published form adds the scaled difference to the wanted branch.
        guidance_off_scale=0.0,
        cache_support=cache_support(directory, ("n_layers",), QWEN_IMAGE_COEFFICIENTS),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "n_heads"),
        defaults=directory.defaults(_DEFAULTS),
    )


def _crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace.of_image_vae(directory)
    width = configured_size(directory, "transformer/config.json", "cap_feat_dim")
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, MAX_PROMPT_TOKENS, width),
        image_latents_bytes=0,
        # In float32 always: the noise is drawn and denoised in it.
        latents_bytes=space.size_bytes(parameters.width, parameters.height, ElementType.FLOAT32),
        pixels_bytes=pixels_bytes(parameters),
    )


def _residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    parameters = request.parameters
    latents_bytes = _crossings(directory, parameters).latents_bytes
    channels = configured_size(directory, "transformer/config.json", "in_channels")
    drawn = latents_bytes // (channels * _PATCH_SIZE**2 * ElementType.FLOAT32.size_bytes)
    tokens = _padded(drawn) + _padded(prompt_tokens(request))
    width = configured_size(directory, "transformer/config.json", "dim")
    # Both branches are rows of one forward; the prompt's tokens follow those of the picture.
    rows = 2 if parameters.guided else 1
    hidden = rows * tokens * width * parameters.dtype.size_bytes
    return Residency(
        state_bytes=state_bytes(request, latents_bytes, tokens=0),
        hidden_bytes=hidden,
        encoder_bytes=0,
        signal_bytes=hidden,
        forwards=1,
    )


def _padded(tokens: int) -> int:
    # The transformer pads both of its sequences.
    return math.ceil(tokens / _TOKENS_MULTIPLE) * _TOKENS_MULTIPLE


SPECS = (
    FamilySpec(
        name="z-image",
        pipeline_classes=frozenset({"ZImagePipeline"}),
        classes={
            "text_encoder": "Qwen3Model",
            "tokenizer": "Qwen2Tokenizer",
            "transformer": "ZImageTransformer2DModel",
            "scheduler": "FlowMatchEulerDiscreteScheduler",
            "vae": "AutoencoderKL",
        },
        capabilities=_capabilities,
        crossings=_crossings,
        residency=_residency,
        # The pipeline reads a layer inside, which a head on top does not change.
        stand_ins={"text_encoder": ("Qwen3ForCausalLM",)},
    ),
)
