"""Sizes that a model's configurations name, read without torch."""

from typing import Final

from services.model_files.directory import ModelDirectory
from triptych.domain.errors import ConfigurationError

TRANSFORMER_CONFIG: Final = "transformer/config.json"
VAE_CONFIG: Final = "vae/config.json"


def image_scale_factor(directory: ModelDirectory) -> int:
    """Pixels per latent of an image VAE (AutoencoderKL), on each side.

    Raises:
        ConfigurationError: the VAE's configuration does not say.
    """
    levels = directory.config("vae").get("block_out_channels")
    if not isinstance(levels, list) or not levels:
        raise ConfigurationError(
            f"{directory.path / 'vae' / 'config.json'}: block_out_channels is {levels!r},"
            " not a list with one entry per level"
        )
    # Each level but the last halves the sides.
    return int(2 ** (len(levels) - 1))


def configured_size(directory: ModelDirectory, file: str, key: str) -> int:
    """A positive whole number that a configuration names.

    Args:
        directory: of the model.
        file: inside it, for example "transformer/config.json".
        key: of the number.

    Raises:
        ConfigurationError: the file is missing or unreadable, or the key is not such a number.
    """
    value = directory.json(file).get(key)
    if type(value) is not int or value < 1:
        raise ConfigurationError(
            f"{directory.path / file}: {key} is {value!r}, not a positive whole number"
        )
    return value


def inner_width(directory: ModelDirectory) -> int:
    """Values per token between a transformer's blocks.

    Raises:
        ConfigurationError: its configuration does not say.
    """
    heads = configured_size(directory, TRANSFORMER_CONFIG, "num_attention_heads")
    return heads * configured_size(directory, TRANSFORMER_CONFIG, "attention_head_dim")
