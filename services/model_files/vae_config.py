"""What a VAE's configuration says about sizes, read without torch."""

from services.model_files.directory import ModelDirectory
from triptych.domain.errors import ConfigurationError


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
