"""Qwen-Image's VAE: latents to a picture."""

import torch
from diffusers import AutoencoderKLQwenImage

from services.model_families.qwen_image.configuration import vae_scale_factor
from services.model_families.qwen_image.pictures import QwenImageVae
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageVae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    vae = load_module(AutoencoderKLQwenImage, directory, "vae", dtype, device)
    return QwenImageVae(vae, vae_scale_factor(directory), device)
