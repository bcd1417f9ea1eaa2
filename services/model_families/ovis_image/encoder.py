"""Ovis-Image's encoder: a prompt, behind a fixed instruction, through Qwen3."""

import torch
from diffusers import OvisImagePipeline
from transformers import Qwen2Tokenizer, Qwen3Model

from services.model_families.ovis_image.spec import PROMPT_TOKENS
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.numerics.prompts import PromptEncoder


class OvisImageEncoder(PromptEncoder):
    """Runs the published pipeline's own `encode_prompt`; its other components are absent."""

    def __init__(
        self, tokenizer: Qwen2Tokenizer, text_encoder: torch.nn.Module, device: torch.device
    ) -> None:
        super().__init__(text_encoder, PROMPT_TOKENS)
        self._device = device
        self._pipeline = OvisImagePipeline(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            scheduler=None,
            vae=None,
            transformer=None,
        )

    def count(self, prompt: str) -> int:
        pipeline = self._pipeline
        (chat,) = pipeline._get_messages(prompt)  # noqa: SLF001 — imported rather than copied
        tokens = len(pipeline.tokenizer(chat, add_special_tokens=False).input_ids)
        return tokens - int(pipeline.user_prompt_begin_id)

    def embed(self, prompt: str) -> torch.Tensor:
        embeds, *_ = self._pipeline.encode_prompt(
            prompt=prompt,
            do_classifier_free_guidance=False,
            device=self._device,
            max_sequence_length=PROMPT_TOKENS,
        )
        assert isinstance(embeds, torch.Tensor)
        return embeds


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> OvisImageEncoder:
    """Loads tokenizer and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    tokenizer = load_part(Qwen2Tokenizer, directory, "tokenizer")
    text_encoder = load_module(Qwen3Model, directory, "text_encoder", dtype, device)
    return OvisImageEncoder(tokenizer, text_encoder, device)
