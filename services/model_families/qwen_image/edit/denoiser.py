"""Qwen-Image-Edit's denoising loop: Qwen-Image's, with the pictures' tokens after the noise."""

import torch
from diffusers import QwenImageTransformer2DModel

from services.model_families.qwen_image.configuration import vae_scale_factor
from services.model_families.qwen_image.denoising import QwenImageDenoiser
from services.model_families.qwen_image.edit.spec import PICTURE_FIT
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.numerics.schedules import load_flow_scheduler


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    directory.refuse("transformer", "guidance_embeds", "guidance is not distilled here")
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(QwenImageTransformer2DModel, directory, "transformer", dtype, device)
    scale_factor = vae_scale_factor(directory)
    return QwenImageDenoiser(transformer, scheduler, scale_factor, device, PICTURE_FIT)
