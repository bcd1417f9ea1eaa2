"""Qwen-Image-Layered's VAE: a picture to latents, and latents to layers with an alpha channel."""

import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image

from services.model_families.qwen_image.configuration import vae_scale_factor
from services.model_families.qwen_image.layered.spec import layers, picture_fit
from services.model_families.qwen_image.pictures import QwenImageVae
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.encoding import Encoding, image_encoding
from services.model_ports.stages import Tensors
from services.numerics.latents import picture_of, take_latents
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters

_RGBA = 4


class QwenImageLayeredVae(QwenImageVae):
    """Qwen-Image's, with an alpha channel."""

    decodes_batches = True

    def image_encoding(
        self, parameters: GenerationParameters, index: int, image: Image.Image
    ) -> Encoding:
        """To latents [1, C, 1, H, W] of the picture, scaled to the request's resolution."""
        size = picture_fit(parameters).size(*image.size)
        return image_encoding(
            index, lambda: self.encode_picture(image.convert("RGBA"), size), *size
        )

    @torch.no_grad()
    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        """Decodes `latents` [1, C, layers, height / scale, width / scale], each by itself.

        Raises:
            TriptychError: latents of another shape, or a layer that is not finite.
        """
        shape = self.latent_shape(parameters, frames=layers(parameters))
        taken = take_latents(latents, shape)
        # As items of a batch: frames of a video would see one another.
        frames = taken.permute(0, 2, 1, 3, 4).reshape(-1, shape[1], 1, *shape[3:])
        return [picture_of(each.unsqueeze(0)) for each in self.decode_frame(frames)]


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> QwenImageLayeredVae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded, or has no alpha channel.
    """
    channels = directory.config("vae").get("input_channels")
    if channels != _RGBA:
        raise ConfigurationError(
            f"{directory.path / 'vae' / 'config.json'}: input_channels is {channels!r};"
            " layers have 4"
        )
    vae = load_module(AutoencoderKLQwenImage, directory, "vae", dtype, device)
    return QwenImageLayeredVae(vae, vae_scale_factor(directory), device)
