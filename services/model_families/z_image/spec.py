"""What Z-Image accepts."""

import math
from dataclasses import dataclass

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import TRANSFORMER_CONFIG, configured_size
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import QWEN_IMAGE_COEFFICIENTS
from services.model_ports.picture_spec import PictureSpec
from services.model_ports.sizes import Residency, prompt_tokens, state_bytes
from triptych.domain.element_type import ElementType
from triptych.domain.model import GenerationDefaults

MAX_PROMPT_TOKENS = 512
"""What the published pipeline reads of a prompt inside its chat template."""

_TOKENS_MULTIPLE = 32


@dataclass(frozen=True, kw_only=True)
class _ZImageSpec(PictureSpec):
    """The prompt's tokens follow those of the picture, and branches are rows of one forward."""

    def residency(self, directory: ModelDirectory, request: DenoiseRequest) -> Residency:
        parameters = request.parameters
        latents_bytes = self.latents_bytes(directory, parameters)
        channels, width = (
            configured_size(directory, TRANSFORMER_CONFIG, entry)
            for entry in ("in_channels", "dim")
        )
        token_bytes = channels * self.patch_size**2 * ElementType.FLOAT32.size_bytes
        tokens = _padded(latents_bytes // token_bytes) + _padded(prompt_tokens(request))
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
    _ZImageSpec(
        name="z-image",
        pipeline_classes=frozenset({"ZImagePipeline"}),
        classes={
            "text_encoder": "Qwen3Model",
            "tokenizer": "Qwen2Tokenizer",
            "transformer": "ZImageTransformer2DModel",
            "scheduler": "FlowMatchEulerDiscreteScheduler",
            "vae": "AutoencoderKL",
        },
        # The pipeline reads a layer inside, which a head on top does not change.
        stand_ins={"text_encoder": ("Qwen3ForCausalLM",)},
        prompt_tokens=MAX_PROMPT_TOKENS,
        prompt_width="cap_feat_dim",
        layer_counts=("n_layers",),
        heads="n_heads",
        tea_cache_coefficients=QWEN_IMAGE_COEFFICIENTS,
        # The noise is drawn and denoised in it.
        latents_dtype=ElementType.FLOAT32,
        min_guidance_scale=0.0,
        # The published form adds the scaled difference to the wanted branch.
        guidance_off_scale=0.0,
        defaults=GenerationDefaults(
            width=1024, height=1024, steps=50, guidance_scale=5.0, negative_prompt=""
        ),
    ),
)
