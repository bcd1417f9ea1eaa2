"""Z-Image's encoder: a prompt, as a chat with a thinking model, through Qwen3."""

import torch
from diffusers import ZImagePipeline
from transformers import Qwen2Tokenizer, Qwen3Model

from services.model_families.z_image.spec import MAX_PROMPT_TOKENS
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.numerics.prompts import PromptEncoder


class ZImageEncoder(PromptEncoder):
    """Runs the published pipeline's own `encode_prompt`; its other components are absent."""

    def __init__(
        self, tokenizer: Qwen2Tokenizer, text_encoder: torch.nn.Module, device: torch.device
    ) -> None:
        super().__init__(text_encoder, MAX_PROMPT_TOKENS)
        self._device = device
        self._pipeline = ZImagePipeline(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            scheduler=None,
            vae=None,
            transformer=None,
        )

    def count(self, prompt: str) -> int:
        tokenizer = self._pipeline.tokenizer
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        return len(tokenizer(chat).input_ids)

    def embed(self, prompt: str) -> torch.Tensor:
        (embeds,), _ = self._pipeline.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            device=self._device,
            max_sequence_length=MAX_PROMPT_TOKENS,
        )
        assert isinstance(embeds, torch.Tensor)
        return embeds.unsqueeze(0)


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> ZImageEncoder:
    """Loads tokenizer and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    tokenizer = load_part(Qwen2Tokenizer, directory, "tokenizer")
    text_encoder = load_module(Qwen3Model, directory, "text_encoder", dtype, device)
    return ZImageEncoder(tokenizer, text_encoder, device)
