"""What FLUX.1 accepts, read from a directory's configuration."""

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import configured_size, image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import (
    FLUX_COEFFICIENTS,
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
from triptych.domain.family_options import OptionKind, OptionLimits
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities, GenerationDefaults, Stage

PROMPT_TOKENS = 512
"""What T5 reads of a prompt, its closing token included; shorter prompts are padded to it."""

_PATCH_SIZE = 2
_DEFAULTS = GenerationDefaults(
    width=1024, height=1024, steps=28, guidance_scale=3.5, negative_prompt=""
)
# Distilled to few steps instead of to a guidance scale.
_DEFAULTS_WITHOUT_GUIDANCE = GenerationDefaults(
    width=1024, height=1024, steps=4, guidance_scale=0.0, negative_prompt=""
)
# Off unless asked for, as published: it takes a second forward in every step.
_TRUE_GUIDANCE = OptionLimits(
    name="flux.true_guidance_scale", kind=OptionKind.NUMBER, minimum=1, maximum=20, default=1
)


def _capabilities(directory: ModelDirectory) -> Capabilities:
    size_multiple = image_scale_factor(directory) * _PATCH_SIZE
    guided = bool(directory.config("transformer").get("guidance_embeds"))
    return Capabilities(
        **picture_limits(size_multiple),
        max_prompt_tokens=PROMPT_TOKENS,
        min_steps=1,
        # The guidance scale is an input of the transformer; the second branch has one of its own.
        supports_guidance=guided,
        guidance_field=_TRUE_GUIDANCE.field,
        min_guidance_scale=0.0,
        max_guidance_scale=30.0,
        supports_previews=True,
        options=(_TRUE_GUIDANCE,),
        cache_support=cache_support(
            directory, ("num_layers", "num_single_layers"), FLUX_COEFFICIENTS, joined=True
        ),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(_DEFAULTS if guided else _DEFAULTS_WITHOUT_GUIDANCE),
    )


def _crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace.of_image_vae(directory)
    width = configured_size(directory, "transformer/config.json", "joint_attention_dim")
    pooled = configured_size(directory, "transformer/config.json", "pooled_projection_dim")
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, PROMPT_TOKENS, width, pooled),
        image_latents_bytes=0,
        latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        pixels_bytes=pixels_bytes(parameters),
    )


def _residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    latents_bytes = _crossings(directory, request.parameters).latents_bytes
    return packed_residency(directory, request, latents_bytes)


# Every stage needs vae/config.json, which says which sizes can be drawn, and
# transformer/config.json, which says whether there is guidance.
SPECS = (
    FamilySpec(
        name="flux",
        pipeline_classes=frozenset({"FluxPipeline"}),
        classes={
            "text_encoder": "CLIPTextModel",
            "text_encoder_2": "T5EncoderModel",
            "tokenizer": "CLIPTokenizer",
            "tokenizer_2": "T5TokenizerFast",
            "transformer": "FluxTransformer2DModel",
            "scheduler": "FlowMatchEulerDiscreteScheduler",
            "vae": "AutoencoderKL",
        },
        weights={
            Stage.ENCODER: ("text_encoder", "text_encoder_2"),
            Stage.DENOISER: ("transformer",),
            Stage.VAE: ("vae",),
        },
        configs={
            Stage.ENCODER: ("tokenizer", "tokenizer_2", "transformer", "vae"),
            Stage.DENOISER: ("scheduler", "vae"),
            Stage.VAE: ("transformer",),
        },
        capabilities=_capabilities,
        crossings=_crossings,
        residency=_residency,
    ),
)
