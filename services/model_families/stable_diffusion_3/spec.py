"""What Stable Diffusion 3 accepts."""

from dataclasses import dataclass, replace
from typing import Self

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import (
    TRANSFORMER_CONFIG,
    configured_size,
    inner_width,
)
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import PictureLimits, picture_limits
from services.model_ports.picture_spec import PictureSpec
from services.model_ports.sizes import Residency, state_bytes
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import GenerationDefaults

MAX_PROMPT_TOKENS = 256
"""What the published pipeline lets T5 read of a prompt, the closing token included."""

MAX_CLIP_TOKENS = 77
"""What the CLIPs can read of a prompt, the closing token included."""

CONDITIONING_TOKENS = MAX_CLIP_TOKENS + MAX_PROMPT_TOKENS
"""What the transformer reads: the CLIPs' tokens, then T5's or zeros, padding included."""

_T5 = ("text_encoder_3", "tokenizer_3")


@dataclass(frozen=True, kw_only=True)
class _StableDiffusion3Spec(PictureSpec):
    """Sizes of patches and pictures are the transformer's to say."""

    def of(self, directory: ModelDirectory) -> Self:
        if directory.setting("text_encoder_3") != [None, None]:
            return self
        # As published: T5 may be left out, and its tokenizer is not read without it.
        held = {name: kind for name, kind in self.classes.items() if name not in _T5}
        return replace(self, classes=held, prompt_tokens=MAX_CLIP_TOKENS)

    def limits(self, directory: ModelDirectory) -> PictureLimits:
        patch, stored = (
            configured_size(directory, TRANSFORMER_CONFIG, entry)
            for entry in ("patch_size", "pos_embed_max_size")
        )
        patch_side = self.scale_factor(directory) * patch
        limits = picture_limits(patch_side)
        # Positions are cut out of a stored square.
        limits["max_side"] = min(limits["max_side"], stored * patch_side)
        return limits

    def conditioning_tokens(
        self, directory: ModelDirectory, parameters: GenerationParameters
    ) -> int:
        return CONDITIONING_TOKENS

    def residency(self, directory: ModelDirectory, request: DenoiseRequest) -> Residency:
        parameters = request.parameters
        latents_bytes = self.latents_bytes(directory, parameters)
        channels, patch = (
            configured_size(directory, TRANSFORMER_CONFIG, entry)
            for entry in ("in_channels", "patch_size")
        )
        # Both branches are rows of one forward.
        rows = 2 if parameters.guided else 1
        hidden = rows * latents_bytes // (channels * patch**2) * inner_width(directory)
        return Residency(
            state_bytes=state_bytes(request, latents_bytes, tokens=0),
            hidden_bytes=hidden,
            encoder_bytes=0,
            signal_bytes=hidden,
            forwards=1,
        )


SPECS = (
    _StableDiffusion3Spec(
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
        prompt_tokens=MAX_PROMPT_TOKENS,
        pooled_width="pooled_projection_dim",
        # Published few-step checkpoints say 0 for "off"; so does everything up to 1.
        min_guidance_scale=0.0,
        defaults=GenerationDefaults(
            width=1024, height=1024, steps=28, guidance_scale=7.0, negative_prompt=""
        ),
    ),
)
