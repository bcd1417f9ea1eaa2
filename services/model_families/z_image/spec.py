"""What Z-Image accepts, read from a directory's configuration."""

from services.domain.model import Capabilities, GenerationDefaults, Stage
from services.model_api.directory import ModelDirectory
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
        max_prompt_characters=4096,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        size_multiple=size_multiple,
        min_side=2 * size_multiple,
        max_side=4096,
        max_pixels=2048 * 2048,
        min_steps=1,
        max_steps=200,
        supports_guidance=True,
        min_guidance_scale=0.0,
        max_guidance_scale=20.0,
        # The published form adds the scaled difference to the wanted branch.
        guidance_off_scale=0.0,
        defaults=directory.defaults(_DEFAULTS),
    )


# Every stage needs vae/config.json: it says which sizes can be drawn.
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
    weights={
        Stage.ENCODER: ("text_encoder",),
        Stage.DENOISER: ("transformer",),
        Stage.VAE: ("vae",),
    },
    configs={
        Stage.ENCODER: ("tokenizer", "vae"),
        Stage.DENOISER: ("scheduler", "vae"),
        Stage.VAE: (),
    },
    capabilities=_capabilities,
)
