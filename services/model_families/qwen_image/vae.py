"""Qwen-Image's VAE: latents to a picture."""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image

from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.latent_statistics import unnormalise
from services.model_api.modules import load_module
from services.model_api.pictures import picture_of, take_latents
from services.model_api.stages import Tensors
from services.model_families.qwen_image.spec import vae_scale_factor


class QwenImageVae:
    """A video VAE that is given one frame."""

    def __init__(
        self, vae: AutoencoderKLQwenImage, scale_factor: int, device: torch.device
    ) -> None:
        self._vae = vae
        self._scale_factor = scale_factor
        self._device = device

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The VAE."""
        return {"vae": self._vae}

    @torch.no_grad()
    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        """Decodes `latents` [1, C, 1, height / scale, width / scale] from QwenImageDenoiser.finish.

        Raises:
            TriptychError: latents of another shape, or a picture that is not finite.
        """
        shape = (
            1,
            self._vae.config.z_dim,
            1,
            parameters.height // self._scale_factor,
            parameters.width // self._scale_factor,
        )
        normalised = take_latents(latents, shape).to(self._device, self._vae.dtype)
        (frames,) = self._vae.decode(unnormalise(normalised, self._vae.config), return_dict=False)
        return [picture_of(frames[:, :, 0])]


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageVae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    vae = load_module(AutoencoderKLQwenImage, directory, "vae", dtype, device)
    return QwenImageVae(vae, vae_scale_factor(directory), device)
