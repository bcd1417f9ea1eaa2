"""What LongCat-Image accepts, read from a directory's configuration."""

from services.domain.model import Capabilities, GenerationDefaults
from services.model_api.directory import ModelDirectory
from services.model_api.picture_limits import picture_limits
from services.model_api.spec import FamilySpec
from services.model_api.vae_config import image_scale_factor

PROMPT_TOKENS = 512
"""What Qwen2.5-VL reads of a prompt, a token for each quoted character; shorter prompts are padded
to it."""

_PATCH_SIZE = 2
_DEFAULTS = GenerationDefaults(
    width=1024, height=1024, steps=50, guidance_scale=4.5, negative_prompt=""
)


def _capabilities(directory: ModelDirectory) -> Capabilities:
    size_multiple = image_scale_factor(directory) * _PATCH_SIZE
    return Capabilities(
        **picture_limits(size_multiple),
        max_prompt_tokens=PROMPT_TOKENS,
        min_steps=1,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        defaults=directory.defaults(_DEFAULTS),
    )


# The text processor is not
# read: only rewriting a prompt needs it, and prompts are drawn as they were written.
SPEC = FamilySpec(
    name="longcat-image",
    pipeline_classes=frozenset({"LongCatImagePipeline"}),
    classes={
        "text_encoder": "Qwen2_5_VLForConditionalGeneration",
        "tokenizer": "Qwen2Tokenizer",
        "transformer": "LongCatImageTransformer2DModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "vae": "AutoencoderKL",
    },
    capabilities=_capabilities,
)
