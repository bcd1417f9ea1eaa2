"""Wan's encoder: a prompt through UMT5."""

import torch
from diffusers import WanPipeline
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import T5TokenizerFast, UMT5EncoderModel

from services.model_families.wan.spec import PROMPT_TOKENS
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.numerics.prompts import PromptEncoder


class WanEncoder(PromptEncoder):
    """Runs the published pipeline's own `encode_prompt`; its other components are absent."""

    def __init__(
        self, tokenizer: T5TokenizerFast, text_encoder: torch.nn.Module, device: torch.device
    ) -> None:
        super().__init__(text_encoder, PROMPT_TOKENS)
        self._device = device
        self._pipeline = WanPipeline(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=None,
            scheduler=None,
            transformer=None,
            transformer_2=None,
        )

    def count(self, prompt: str) -> int:
        # Entities are read and spaces joined before a prompt becomes tokens.
        return len(self._pipeline.tokenizer(prompt_clean(prompt)).input_ids)

    def embed(self, prompt: str) -> torch.Tensor:
        embeds, _ = self._pipeline.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=PROMPT_TOKENS,
            device=self._device,
        )
        assert isinstance(embeds, torch.Tensor)
        return embeds


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> WanEncoder:
    """Loads tokenizer and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    tokenizer = load_part(T5TokenizerFast, directory, "tokenizer")
    text_encoder = load_module(UMT5EncoderModel, directory, "text_encoder", dtype, device)
    return WanEncoder(tokenizer, text_encoder, device)
