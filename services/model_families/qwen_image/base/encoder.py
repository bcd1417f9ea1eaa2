"""Qwen-Image's encoder: a prompt through Qwen2.5-VL."""

import torch
from diffusers import QwenImagePipeline
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.model_families.qwen_image.prompt_encoding import QwenImageEncoder
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part


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
