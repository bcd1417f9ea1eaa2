"""What BAGEL accepts, read from a directory's configuration.

A step is one from one noise level to the next: what is published as 50 time steps, counting the
levels at both ends, is 49 steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import configured_size
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import BAGEL_COEFFICIENTS, parallel_support, picture_limits
from services.model_ports.sizes import (
    Crossings,
    LatentSpace,
    Residency,
    pictures_bytes,
    pixels_bytes,
    prompt_bytes,
    prompt_tokens,
    state_bytes,
)
from services.model_ports.spec import FamilySpec
from triptych.domain.acceleration import CacheMethod, CacheSupport
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.family_options import OptionKind, OptionLimits
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import Capabilities, GenerationDefaults, Stage

Size = tuple[int, int]

# 1024 patches of 14 x 14 pixels, nine times.
_MAX_PIXELS = 14 * 14 * 9 * 1024

VAE_FIT: Final = ImageFit(
    area_pixels=_MAX_PIXELS, multiple=16, shortest_edge=512, longest_edge=1024
)
VISION_FIT: Final = ImageFit(
    area_pixels=_MAX_PIXELS, multiple=14, shortest_edge=224, longest_edge=980
)


def vae_size(width: int, height: int) -> Size:
    """The size in which the VAE encodes an input image."""
    return VAE_FIT.size(width, height)


def vision_size(width: int, height: int) -> Size:
    """The size in which the vision tower reads one: it is given what the VAE was."""
    return VISION_FIT.size(*vae_size(width, height))


WEIGHTS: Final = "ema.safetensors"
"""Of the language model, the vision tower and what connects them."""

VAE_WEIGHTS: Final = "ae.safetensors"

MAX_PROMPT_TOKENS: Final = 1024
"""With the two around the prompt. The published code has no limit, but memory has."""

# The published code has these sizes in itself, whatever config.json says.
VAE_SCALE_FACTOR: Final = 8
LATENT_CHANNELS: Final = 16
LATENT_PATCH: Final = 2
MAX_LATENT_SIDE: Final = 64
MAX_VISION_SIDE: Final = 70

_MULTIPLE = VAE_SCALE_FACTOR * LATENT_PATCH
_MAX_EDGE = MAX_LATENT_SIDE * _MULTIPLE
_DEFAULTS = GenerationDefaults(
    width=1024, height=1024, steps=49, guidance_scale=4.0, negative_prompt=""
)
_OPTIONS = (
    OptionLimits(
        name="bagel.image_guidance_scale",
        kind=OptionKind.NUMBER,
        minimum=1.0,
        maximum=10.0,
        default=1.5,
    ),
    OptionLimits(
        name="bagel.guidance_interval_start",
        kind=OptionKind.NUMBER,
        minimum=0.0,
        maximum=1.0,
        default=0.4,
    ),
    OptionLimits(
        name="bagel.guidance_interval_end",
        kind=OptionKind.NUMBER,
        minimum=0.0,
        maximum=1.0,
        default=1.0,
    ),
)


def _keys_and_values(directory: ModelDirectory) -> int:
    """Values that all layers keep of one token."""
    layers, heads, key_heads, width = (
        configured_size(directory, "llm_config.json", key)
        for key in (
            *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
            "hidden_size",
        )
    )
    return layers * 2 * key_heads * (width // heads)


@dataclass(frozen=True, kw_only=True)
class _BagelSpec(FamilySpec):
    """A model of few files, without subfolders."""

    @property
    def weights(self) -> Mapping[Stage, tuple[str, ...]]:
        return {
            Stage.ENCODER: ("embed_tokens", "vit_model"),
            Stage.DENOISER: ("language_model",),
            Stage.VAE: ("vae",),
        }

    @property
    def configs(self) -> Mapping[Stage, tuple[str, ...]]:
        return dict.fromkeys(Stage, ())

    def capabilities(self, directory: ModelDirectory) -> Capabilities:
        if directory.setting("interpolate_pos"):
            raise ConfigurationError(
                f"{directory.index_path}: interpolate_pos is true; served are models that count"
                " positions patch by patch"
            )
        limits = picture_limits(_MULTIPLE)
        limits["max_side"] = _MAX_EDGE
        limits["max_pixels"] = _MAX_EDGE**2
        return Capabilities(
            **limits,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            min_steps=1,
            supports_guidance=True,
            supports_negative_prompt=False,
            min_guidance_scale=1.0,
            max_guidance_scale=20.0,
            supports_previews=True,
            max_images=1,
            image_fit=VAE_FIT,
            cache_support=CacheSupport(
                methods=(CacheMethod.NONE, CacheMethod.TEA_CACHE, CacheMethod.CACHE_DIT),
                blocks=(configured_size(directory, "llm_config.json", "num_hidden_layers"),),
                tea_cache_coefficients=BAGEL_COEFFICIENTS,
            ),
            options=_OPTIONS,
            parallel_support=parallel_support(
                directory, "num_key_value_heads", guidance_branches=3, config="llm_config.json"
            ),
            defaults=directory.defaults(_DEFAULTS),
        )

    def crossings(self, directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
        space = LatentSpace(LATENT_CHANNELS, VAE_SCALE_FACTOR)
        width = configured_size(directory, "llm_config.json", "hidden_size")
        # Two markers stand around a picture; every branch of guidance reads from the same tensors.
        tokens = MAX_PROMPT_TOKENS + 2
        image_latents = 0
        for image in parameters.images:
            seen = vision_size(image.width, image.height)
            tokens += math.prod(side // VISION_FIT.multiple for side in seen)
            encoded = vae_size(image.width, image.height)
            image_latents += space.size_bytes(*encoded, parameters.dtype)
        return Crossings(
            conditioning_bytes=prompt_bytes(parameters, tokens, width),
            image_latents_bytes=image_latents,
            latents_bytes=space.size_bytes(
                parameters.width, parameters.height, ElementType.FLOAT32
            ),
            pixels_bytes=pixels_bytes(parameters),
        )

    def residency(self, directory: ModelDirectory, request: DenoiseRequest) -> Residency:
        parameters = request.parameters
        element = parameters.dtype.size_bytes
        width = configured_size(directory, "llm_config.json", "hidden_size")
        latents_bytes = self.crossings(directory, parameters).latents_bytes
        patch_bytes = LATENT_CHANNELS * LATENT_PATCH**2
        patches = latents_bytes // (patch_bytes * ElementType.FLOAT32.size_bytes)
        # A picture is read as the VAE and as the vision tower sees it, each time between two
        # markers; the prompt once after it and once without it.
        pictures = pictures_bytes(request) // (patch_bytes * element)
        read = prompt_tokens(request) * (2 if parameters.images else 1)
        if parameters.images:
            read += pictures + prompt_tokens(request, "image_embeds") + 4
        hidden = (patches + 2) * width * element
        return Residency(
            state_bytes=state_bytes(request, latents_bytes, patches)
            + read * _keys_and_values(directory) * element,
            hidden_bytes=hidden,
            encoder_bytes=0,
            signal_bytes=hidden,
            forwards=3 if parameters.images else 2,
        )


# The encoder embeds the prompt's tokens, so that the denoiser needs neither tokenizer nor table.
SPECS = (
    _BagelSpec(
        name="bagel",
        pipeline_classes=frozenset({"BagelForConditionalGeneration"}),
        classes={
            "embed_tokens": "Embedding",
            "vit_model": "SiglipVisionModel",
            "language_model": "Qwen2ForCausalLM",
            "vae": "AutoEncoder",
        },
        files={
            Stage.ENCODER: (
                "config.json",
                "llm_config.json",
                "vit_config.json",
                "tokenizer_config.json",
                WEIGHTS,
            ),
            Stage.DENOISER: ("config.json", "llm_config.json", WEIGHTS),
            # Its capabilities count the layers.
            Stage.VAE: ("config.json", "llm_config.json", VAE_WEIGHTS),
        },
    ),
)
