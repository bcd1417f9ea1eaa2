"""The image VAE (AutoencoderKL) that many families share: latents to a picture."""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL
from PIL import Image

from services.domain.errors import ConfigurationError
from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module
from services.model_api.pictures import picture_of, take_latents
from services.model_api.stages import Tensors
from services.model_api.vae_config import image_scale_factor


class ImageVae:
    """Decodes latents that were scaled and shifted for the denoiser."""

    def __init__(self, vae: AutoencoderKL, scale_factor: int, device: torch.device) -> None:
        self._vae = vae
        self._scale_factor = scale_factor
        self._device = device

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The VAE."""
        return {"vae": self._vae}

    @torch.no_grad()
    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        """Decodes `latents` [1, C, height / scale, width / scale] as the denoiser left them.

        Raises:
            TriptychError: latents of another shape, or a picture that is not finite.
        """
        config = self._vae.config
        shape = (
            1,
            config.latent_channels,
            parameters.height // self._scale_factor,
            parameters.width // self._scale_factor,
        )
        # Cast before the arithmetic, and divided before shifted: anything else loses bits.
        normalised = take_latents(latents, shape).to(self._device, self._vae.dtype)
        unnormalised = (normalised / config.scaling_factor) + config.shift_factor
        (pixels,) = self._vae.decode(unnormalised, return_dict=False)
        return [picture_of(pixels)]


def load_image_vae(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> ImageVae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded, or does not say how its latents are normalised.
    """
    config = directory.config("vae")
    for option in ("scaling_factor", "shift_factor"):
        if not isinstance(config.get(option), int | float):
            raise ConfigurationError(
                f"{directory.path / 'vae' / 'config.json'}: {option} is {config.get(option)!r},"
                " not a number"
            )
    vae = load_module(AutoencoderKL, directory, "vae", dtype, device)
    return ImageVae(vae, image_scale_factor(directory), device)
