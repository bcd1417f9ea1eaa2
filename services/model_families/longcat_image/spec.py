"""What LongCat-Image and LongCat-Image-Edit accept."""

from dataclasses import dataclass
from typing import Final

from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import LONGCAT_COEFFICIENTS
from services.model_ports.picture_spec import PictureSpec
from services.numerics.qwen_vision import picture_tokens
from triptych.domain.family_options import switch
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import GenerationDefaults

EDIT: Final = "LongCatImageEditPipeline"
"""The pipeline class of the model that edits a picture."""

PROMPT_TOKENS = 512
"""What Qwen2.5-VL reads of a prompt, a token for each quoted character; shorter prompts are padded
to it."""

PATCH_SIZE = 2
"""Latents per token, on each side."""

_DEFAULTS = GenerationDefaults(
    width=1024, height=1024, steps=50, guidance_scale=4.5, negative_prompt=""
)


@dataclass(frozen=True, kw_only=True)
class _LongCatSpec(PictureSpec):
    """What both have in common."""

    prompt_tokens: int = PROMPT_TOKENS
    patch_size: int = PATCH_SIZE
    layer_counts: tuple[str, ...] = ("num_layers", "num_single_layers")
    tea_cache_coefficients: tuple[float, ...] | None = LONGCAT_COEFFICIENTS
    defaults: GenerationDefaults = _DEFAULTS

    def conditioning_tokens(
        self, directory: ModelDirectory, parameters: GenerationParameters
    ) -> int:
        if not parameters.images:
            return self.prompt_tokens
        # The picture is seen at half its size, between two markers.
        seen = picture_tokens(parameters.width // 2, parameters.height // 2)
        return self.prompt_tokens + seen + 2


_CLASSES = {
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    "text_processor": "Qwen2VLProcessor",
    "tokenizer": "Qwen2Tokenizer",
    "transformer": "LongCatImageTransformer2DModel",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "vae": "AutoencoderKL",
}

SPECS = (
    _LongCatSpec(
        name="longcat-image",
        pipeline_classes=frozenset({"LongCatImagePipeline"}),
        classes=_CLASSES,
        # The published pipeline rewrites prompts unless it is told not to; here a prompt is drawn
        # as it was written unless a request says otherwise, since rewriting takes longer than many
        # a drawing.
        options=(switch("long_cat.rewrite_prompt", default=False),),
    ),
    _LongCatSpec(
        name="longcat-image-edit",
        pipeline_classes=frozenset({EDIT}),
        classes=_CLASSES,
        images=(1, 1),
        image_fit=ImageFit(area_pixels=1024 * 1024, multiple=16, rounds_up=True, overridable=False),
    ),
)
