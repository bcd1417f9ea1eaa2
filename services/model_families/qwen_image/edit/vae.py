"""Qwen-Image-Edit's VAE: pictures to latents, and latents to a picture."""

import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image

from services.model_families.qwen_image.configuration import vae_scale_factor
from services.model_families.qwen_image.edit.spec import PICTURE_FIT
from services.model_families.qwen_image.pictures import QwenImageVae
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.encoding import Encoding, image_encoding
from triptych.domain.generation import GenerationParameters


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
