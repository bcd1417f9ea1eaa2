"""Stable Diffusion 3's VAE: latents to a picture."""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from services.domain.errors import TriptychError
from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module
from services.model_api.stages import Tensors
from services.model_families.stable_diffusion_3.spec import vae_scale_factor


class StableDiffusion3Vae:
    """An image autoencoder of 16 channels."""

    def __init__(self, vae: AutoencoderKL, scale_factor: int, device: torch.device) -> None:
        self._vae = vae
        self._scale_factor = scale_factor
        self._device = device
        self._images = VaeImageProcessor(vae_scale_factor=scale_factor)

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The VAE."""
        return {"vae": self._vae}

    @torch.no_grad()
    def decode(self, parameters: GenerationParameters, latents: Tensors) -> Image.Image:
        """Decodes `latents` [1, C, height / scale, width / scale] from StableDiffusion3Denoiser.finish.

        Raises:
            TriptychError: latents of another shape, or a picture that is not finite.
        """
        normalised = self._check(parameters, latents).to(self._device, self._vae.dtype)
        config = self._vae.config
        scaled = normalised / config.scaling_factor + config.shift_factor
        (pixels,) = self._vae.decode(scaled, return_dict=False)
        if not torch.isfinite(pixels).all():
            raise TriptychError(f"the VAE's picture is not finite in {self._vae.dtype}")
        (image,) = self._images.postprocess(pixels, output_type="pil")
        assert isinstance(image, Image.Image)
        return image

    def _check(self, parameters: GenerationParameters, latents: Tensors) -> torch.Tensor:
        expected = (
            1,
            self._vae.config.latent_channels,
            parameters.height // self._scale_factor,
            parameters.width // self._scale_factor,
        )
        found = {name: tuple(tensor.shape) for name, tensor in latents.items()}
        if found != {"latents": expected}:
            raise TriptychError(f"latents: are {found}; this request needs latents of {expected}")
        return latents["latents"]


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> StableDiffusion3Vae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    vae = load_module(AutoencoderKL, directory, "vae", dtype, device)
    return StableDiffusion3Vae(vae, vae_scale_factor(directory), device)
