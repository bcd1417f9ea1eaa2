"""Qwen-Image's encoder: a prompt through Qwen2.5-VL."""

import torch
from diffusers import QwenImagePipeline
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module, load_part
from services.model_api.qwen_image_encoder import QwenImageEncoder


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageEncoder:
    """Loads tokenizer and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    pipeline = QwenImagePipeline(
        tokenizer=load_part(Qwen2Tokenizer, directory, "tokenizer"),
        text_encoder=load_module(
            Qwen2_5_VLForConditionalGeneration, directory, "text_encoder", dtype, device
        ),
        scheduler=None,
        vae=None,
        transformer=None,
    )
    return QwenImageEncoder(pipeline, device)
