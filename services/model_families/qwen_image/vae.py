"""Qwen-Image's VAE: latents to a picture."""

import torch
from diffusers import AutoencoderKLQwenImage

from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module
from services.model_api.qwen_image import vae_scale_factor
from services.model_api.qwen_image_vae import QwenImageVae


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageVae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    vae = load_module(AutoencoderKLQwenImage, directory, "vae", dtype, device)
    return QwenImageVae(vae, vae_scale_factor(directory), device)
