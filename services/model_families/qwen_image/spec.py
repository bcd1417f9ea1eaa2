"""What Qwen-Image accepts, read from a directory's configuration."""

from services.domain.errors import ConfigurationError
from services.domain.model import Capabilities, GenerationDefaults
from services.model_api.directory import ModelDirectory
from services.model_api.picture_limits import picture_limits
from services.model_api.spec import FamilySpec

MAX_PROMPT_TOKENS = 512
"""What the published pipeline reads of a prompt, its template's closing tokens included."""

_PATCH_SIZE = 2
_DEFAULTS = GenerationDefaults(width=1024, height=1024, steps=50, guidance_scale=4.0)


def vae_scale_factor(directory: ModelDirectory) -> int:
    """Pixels per latent, on each side.

    Raises:
        ConfigurationError: the VAE's configuration does not say.
    """
    downsampling = directory.config("vae").get("temperal_downsample")
    if not isinstance(downsampling, list) or not downsampling:
        raise ConfigurationError(
            f"{directory.path / 'vae' / 'config.json'}: temperal_downsample is {downsampling!r},"
            " not a list with one entry per halving"
        )
    return int(2 ** len(downsampling))


def _capabilities(directory: ModelDirectory) -> Capabilities:
    size_multiple = vae_scale_factor(directory) * _PATCH_SIZE
    return Capabilities(
        **picture_limits(size_multiple),
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        # One step divides zero by zero: the schedule is stretched to end at shift_terminal.
        min_steps=2,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        defaults=directory.defaults(_DEFAULTS),
    )


SPEC = FamilySpec(
    name="qwen-image",
    pipeline_classes=frozenset({"QwenImagePipeline"}),
    classes={
        "text_encoder": "Qwen2_5_VLForConditionalGeneration",
        "tokenizer": "Qwen2Tokenizer",
        "transformer": "QwenImageTransformer2DModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "vae": "AutoencoderKLQwenImage",
    },
    capabilities=_capabilities,
)
