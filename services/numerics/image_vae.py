"""The image VAE (AutoencoderKL) that many families share: latents to a picture, and back."""

from collections.abc import Mapping
from typing import Self

import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from services.model_files.configuration import image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.stages import Tensors
from services.numerics.latents import picture_of, take_latents
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters


class ImageVae:
    """Its latents are shifted and scaled for the denoiser.

    Args:
        vae: the model.
        scale_factor: pixels per latent, on each side.
        device: where the VAE is.
    """

    def __init__(self, vae: AutoencoderKL, scale_factor: int, device: torch.device) -> None:
        self._vae = vae
        self._scale_factor = scale_factor
        self._device = device
        self._images = VaeImageProcessor(vae_scale_factor=scale_factor)

    @classmethod
    def load(cls, directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> Self:
        """Loads the VAE.

        Raises:
            ConfigurationError: it cannot be loaded, or does not say how its latents are normalised.
        """
        config = directory.config("vae")
        for option in ("scaling_factor", "shift_factor"):
            if not isinstance(config.get(option), int | float):
                raise ConfigurationError(
                    f"{directory.path / 'vae' / 'config.json'}: {option} is"
                    f" {config.get(option)!r}, not a number"
                )
        vae = load_module(AutoencoderKL, directory, "vae", dtype, device)
        return cls(vae, image_scale_factor(directory), device)

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
        return [picture_of(self._decoded(take_latents(latents, shape)))]

    @torch.no_grad()
    def reconstruct(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, C, H / scale, W / scale] of pictures [B, 4, H, W], and what they decode to.

        Their fourth channel is left out.
        """
        latents = self._encoded(pictures[:, :3])
        return latents, self._decoded(latents)

    @torch.no_grad()
    def encode_picture(self, picture: Image.Image, size: tuple[int, int]) -> torch.Tensor:
        """Latents [1, C, H, W] of a picture that is scaled to a width and height first.

        They are the most likely ones: nothing is drawn at random.
        """
        width, height = size
        return self._encoded(self._images.preprocess(picture, height, width))

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        # Cast before the arithmetic, and divided before shifted: anything else loses bits.
        normalised = latents.to(self._device, self._vae.dtype)
        config = self._vae.config
        unnormalised = (normalised / config.scaling_factor) + config.shift_factor
        (pixels,) = self._vae.decode(unnormalised, return_dict=False)
        assert isinstance(pixels, torch.Tensor)
        return pixels

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        posterior = self._vae.encode(pixels.to(self._device, self._vae.dtype)).latent_dist
        config = self._vae.config
        # Shifted before scaled: anything else loses bits.
        latents = (posterior.mode() - config.shift_factor) * config.scaling_factor
        assert isinstance(latents, torch.Tensor)
        return latents


load = ImageVae.load
