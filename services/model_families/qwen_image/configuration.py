"""What the models of the Qwen-Image family line have in common, without torch."""

from services.model_files.directory import ModelDirectory
from triptych.domain.errors import ConfigurationError

PATCH_SIZE = 2
"""Latents per token, on each side."""

MAX_PROMPT_TOKENS = 512
"""What is read of a prompt without pictures, its template's closing tokens included."""

CLASSES = {
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    "tokenizer": "Qwen2Tokenizer",
    "transformer": "QwenImageTransformer2DModel",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "vae": "AutoencoderKLQwenImage",
}
"""By subfolder, the class that reads it."""


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
