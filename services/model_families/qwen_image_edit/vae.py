"""Qwen-Image-Edit's VAE: pictures to latents, and latents to a picture."""

import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image

from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.encoding import Encoding, image_encoding
from services.model_api.modules import load_module
from services.model_api.qwen_image import vae_scale_factor
from services.model_api.qwen_image_vae import QwenImageVae
from services.model_families.qwen_image_edit.spec import PICTURE_FIT


class QwenImageEditVae(QwenImageVae):
    """Qwen-Image's, which also encodes."""

    def image_encoding(
        self, parameters: GenerationParameters, index: int, image: Image.Image
    ) -> Encoding:
        """To latents [1, C, 1, H, W] of a picture, scaled to about a megapixel."""
        size = PICTURE_FIT.size(*image.size)
        return image_encoding(index, lambda: self.encode_picture(image.convert("RGB"), size))


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageEditVae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    vae = load_module(AutoencoderKLQwenImage, directory, "vae", dtype, device)
    return QwenImageEditVae(vae, vae_scale_factor(directory), device)
