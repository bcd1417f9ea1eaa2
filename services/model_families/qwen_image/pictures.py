"""Qwen-Image's VAE: latents to a picture, and a picture to latents."""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from services.model_families.qwen_image.configuration import PATCH_SIZE
from services.model_ports.stages import Tensors
from services.numerics.latents import normalise, picture_of, take_latents, unnormalise
from triptych.domain.generation import GenerationParameters


class QwenImageVae:
    """A video VAE that is given one frame.

    Args:
        vae: with 3 channels for colours, or 4 with an alpha channel.
        scale_factor: pixels per latent, on each side.
        device: where the VAE is.
    """

    def __init__(
        self, vae: AutoencoderKLQwenImage, scale_factor: int, device: torch.device
    ) -> None:
        self._vae = vae
        self._scale_factor = scale_factor
        self._device = device
        self._images = VaeImageProcessor(vae_scale_factor=scale_factor * PATCH_SIZE)

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The VAE."""
        return {"vae": self._vae}

    @torch.no_grad()
    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        """Decodes `latents` [1, C, 1, height / scale, width / scale] as the denoiser left them.

        Raises:
            TriptychError: latents of another shape, or a picture that is not finite.
        """
        taken = take_latents(latents, self.latent_shape(parameters, frames=1))
        return [picture_of(self.decode_frame(taken))]

    def latent_shape(self, parameters: GenerationParameters, frames: int) -> tuple[int, ...]:
        """The shape of a request's latents."""
        rows, columns = (
            side // self._scale_factor for side in (parameters.height, parameters.width)
        )
        return (1, self._vae.config.z_dim, frames, rows, columns)

    def decode_frame(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels [1, 3 or 4, height, width] from -1 to 1 of latents [1, C, 1, H, W]."""
        normalised = latents.to(self._device, self._vae.dtype)
        (frames,) = self._vae.decode(unnormalise(normalised, self._vae.config), return_dict=False)
        first = frames[:, :, 0]
        assert isinstance(first, torch.Tensor)
        return first

    @torch.no_grad()
    def encode_picture(self, picture: Image.Image, size: tuple[int, int]) -> torch.Tensor:
        """Latents [1, C, 1, H, W] of a picture that is scaled to a width and height first.

        They are the most likely ones: nothing is drawn at random.
        """
        width, height = size
        return self._encoded(self._images.preprocess(picture, height, width))

    @torch.no_grad()
    def reconstruct(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, C, H / scale, W / scale] of pictures [B, 4, H, W], decoded too."""
        latents = self._encoded(pictures[:, : self._vae.config.input_channels])
        return latents.squeeze(2), self.decode_frame(latents)

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        frames = pixels.unsqueeze(2).to(self._device, self._vae.dtype)
        posterior = self._vae.encode(frames).latent_dist
        return normalise(posterior.mode(), self._vae.config)
