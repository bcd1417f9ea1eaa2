"""Qwen-Image's encoder: a prompt through Qwen2.5-VL."""

import torch
from diffusers import QwenImagePipeline
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.domain.errors import TriptychError
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module, load_part
from services.model_api.prompt_encoder import PromptEncoder
from services.model_families.qwen_image.spec import MAX_PROMPT_TOKENS


class QwenImageEncoder(PromptEncoder):
    """Runs the published pipeline's own `encode_prompt`; its other components are absent."""

    def __init__(
        self, tokenizer: Qwen2Tokenizer, text_encoder: torch.nn.Module, device: torch.device
    ) -> None:
        super().__init__(text_encoder, MAX_PROMPT_TOKENS)
        self._device = device
        self._pipeline = QwenImagePipeline(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            scheduler=None,
            vae=None,
            transformer=None,
        )

    def count(self, prompt: str) -> int:
        pipeline = self._pipeline
        text = pipeline.prompt_template_encode.format(prompt)
        return len(pipeline.tokenizer(text).input_ids) - int(
            pipeline.prompt_template_encode_start_idx
        )

    def embed(self, prompt: str) -> torch.Tensor:
        embeds, mask = self._pipeline.encode_prompt(
            prompt=prompt, device=self._device, max_sequence_length=MAX_PROMPT_TOKENS
        )
        if mask is not None:
            raise TriptychError("the text encoder padded a single prompt; its mask would be lost")
        assert isinstance(embeds, torch.Tensor)
        return embeds


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageEncoder:
    """Loads tokenizer and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    tokenizer = load_part(Qwen2Tokenizer, directory, "tokenizer")
    text_encoder = load_module(
        Qwen2_5_VLForConditionalGeneration, directory, "text_encoder", dtype, device
    )
    return QwenImageEncoder(tokenizer, text_encoder, device)
