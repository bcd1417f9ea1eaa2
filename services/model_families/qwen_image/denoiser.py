"""Qwen-Image's denoising loop."""

import torch
from diffusers import QwenImageTransformer2DModel

from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module
from services.model_api.qwen_image import vae_scale_factor
from services.model_api.qwen_image_denoiser import QwenImageDenoiser
from services.model_api.schedules import load_flow_scheduler


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    directory.refuse("transformer", "guidance_embeds", "guidance is not distilled here")
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(QwenImageTransformer2DModel, directory, "transformer", dtype, device)
    return QwenImageDenoiser(transformer, scheduler, vae_scale_factor(directory), device)
