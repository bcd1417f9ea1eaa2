"""What Stable Diffusion 3 accepts, read from a directory's configuration."""

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import configured_size, image_scale_factor, inner_width
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import cache_support, parallel_support, picture_limits
from services.model_ports.sizes import (
    Crossings,
    LatentSpace,
    Residency,
    pixels_bytes,
    prompt_bytes,
    state_bytes,
)
from services.model_ports.spec import FamilySpec
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities, GenerationDefaults, Stage

MAX_PROMPT_TOKENS = 256
"""What the published pipeline lets T5 read of a prompt, the closing token included."""

CONDITIONING_TOKENS = 77 + MAX_PROMPT_TOKENS
"""What the transformer reads: the CLIPs' tokens, then T5's, padding included."""

_DEFAULTS = GenerationDefaults(
    width=1024, height=1024, steps=28, guidance_scale=7.0, negative_prompt=""
)


def _capabilities(directory: ModelDirectory) -> Capabilities:
    patch_side = image_scale_factor(directory) * configured_size(
        directory, "transformer/config.json", "patch_size"
    )
    limits = picture_limits(patch_side)
    # Positions are cut out of a stored square.
    reached = (
        configured_size(directory, "transformer/config.json", "pos_embed_max_size") * patch_side
    )
    return Capabilities(
        **limits | {"max_side": min(limits["max_side"], reached)},
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        min_steps=1,
        supports_guidance=True,
        # Published few-step checkpoints say 0 for "off"; so does everything up to 1.
        min_guidance_scale=0.0,
        max_guidance_scale=20.0,
        supports_previews=True,
        cache_support=cache_support(directory, ("num_layers",), None),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(_DEFAULTS),
    )


def _crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace.of_image_vae(directory)
    width = configured_size(directory, "transformer/config.json", "joint_attention_dim")
    pooled = configured_size(directory, "transformer/config.json", "pooled_projection_dim")
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, CONDITIONING_TOKENS, width, pooled),
        image_latents_bytes=0,
        latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        pixels_bytes=pixels_bytes(parameters),
    )


def _residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    parameters = request.parameters
    latents_bytes = _crossings(directory, parameters).latents_bytes
    width = inner_width(directory)
    channels = configured_size(directory, "transformer/config.json", "in_channels")
    patch = configured_size(directory, "transformer/config.json", "patch_size")
    # Both branches are rows of one forward.
    rows = 2 if parameters.guided else 1
    hidden = rows * latents_bytes // (channels * patch**2) * width
    return Residency(
        state_bytes=state_bytes(request, latents_bytes, tokens=0),
        hidden_bytes=hidden,
        encoder_bytes=0,
        signal_bytes=hidden,
        forwards=1,
    )


# Every stage needs transformer/config.json, too: it says which sizes can be drawn.
SPECS = (
    FamilySpec(
        name="stable-diffusion-3",
        pipeline_classes=frozenset({"StableDiffusion3Pipeline"}),
        classes={
            "text_encoder": "CLIPTextModelWithProjection",
            "text_encoder_2": "CLIPTextModelWithProjection",
            "text_encoder_3": "T5EncoderModel",
            "tokenizer": "CLIPTokenizer",
            "tokenizer_2": "CLIPTokenizer",
            "tokenizer_3": "T5TokenizerFast",
            "transformer": "SD3Transformer2DModel",
            "scheduler": "FlowMatchEulerDiscreteScheduler",
            "vae": "AutoencoderKL",
        },
        weights={
            Stage.ENCODER: ("text_encoder", "text_encoder_2", "text_encoder_3"),
            Stage.DENOISER: ("transformer",),
            Stage.VAE: ("vae",),
        },
        configs={
            Stage.ENCODER: ("tokenizer", "tokenizer_2", "tokenizer_3", "transformer", "vae"),
            Stage.DENOISER: ("scheduler", "vae"),
            Stage.VAE: ("transformer",),
        },
        capabilities=_capabilities,
        crossings=_crossings,
        residency=_residency,
    ),
)
