"""What FLUX.1 accepts."""

from dataclasses import dataclass, replace

from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import FLUX_COEFFICIENTS
from services.model_ports.picture_spec import PictureSpec
from triptych.domain.family_options import OptionKind, OptionLimits
from triptych.domain.model import Capabilities, GenerationDefaults

PROMPT_TOKENS = 512
"""What T5 reads of a prompt, its closing token included; shorter prompts are padded to it."""

# Distilled to few steps instead of to a guidance scale.
_DEFAULTS_WITHOUT_GUIDANCE = GenerationDefaults(
    width=1024, height=1024, steps=4, guidance_scale=0.0, negative_prompt=""
)
# Off unless asked for, as published: it takes a second forward in every step.
_TRUE_GUIDANCE = OptionLimits(
    name="flux.true_guidance_scale", kind=OptionKind.NUMBER, minimum=1, maximum=20, default=1
)


@dataclass(frozen=True, kw_only=True)
class _FluxSpec(PictureSpec):
    """The guidance scale is an input of the transformer; the second branch has one of its own."""

    def capabilities(self, directory: ModelDirectory) -> Capabilities:
        if directory.config("transformer").get("guidance_embeds"):
            return super().capabilities(directory)
        unguided = replace(self, supports_guidance=False, defaults=_DEFAULTS_WITHOUT_GUIDANCE)
        return PictureSpec.capabilities(unguided, directory)


SPECS = (
    _FluxSpec(
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
        prompt_tokens=PROMPT_TOKENS,
        pooled_width="pooled_projection_dim",
        layer_counts=("num_layers", "num_single_layers"),
        joined_lists=True,
        tea_cache_coefficients=FLUX_COEFFICIENTS,
        guidance_field=_TRUE_GUIDANCE.name,
        min_guidance_scale=0.0,
        max_guidance_scale=30.0,
        options=(_TRUE_GUIDANCE,),
        defaults=GenerationDefaults(
            width=1024, height=1024, steps=28, guidance_scale=3.5, negative_prompt=""
        ),
    ),
)
