"""What Z-Image accepts, read from a directory's configuration."""

from services.domain.model import Capabilities, GenerationDefaults
from services.model_api.directory import ModelDirectory
from services.model_api.picture_limits import picture_limits
from services.model_api.spec import FamilySpec
from services.model_api.vae_config import image_scale_factor

MAX_PROMPT_TOKENS = 512
"""What the published pipeline reads of a prompt inside its chat template."""

_PATCH_SIZE = 2
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
        # The published form adds the scaled difference to the wanted branch.
        guidance_off_scale=0.0,
        defaults=directory.defaults(_DEFAULTS),
    )


SPEC = FamilySpec(
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
)
