"""Z-Image's encoder: a prompt, as a chat with a thinking model, through Qwen3."""

from collections.abc import Mapping

import torch
from diffusers import ZImagePipeline
from transformers import Qwen2Tokenizer, Qwen3Model

from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module, load_part
from services.model_api.prompts import counted_prompts
from services.model_api.stages import Tensors
from services.model_families.z_image.spec import MAX_PROMPT_TOKENS


class ZImageEncoder:
    """Runs the published pipeline's own `encode_prompt`; its other components are absent."""

    def __init__(
        self, tokenizer: Qwen2Tokenizer, text_encoder: torch.nn.Module, device: torch.device
    ) -> None:
        self._text_encoder = text_encoder
        self._device = device
        self._pipeline = ZImagePipeline(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            scheduler=None,
            vae=None,
            transformer=None,
        )

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The text encoder."""
        return {"text_encoder": self._text_encoder}

    @torch.no_grad()
    def encode(self, parameters: GenerationParameters) -> Tensors:
        """Returns `prompt_embeds` [1, tokens, width]; when guided, `negative_prompt_embeds` too.

        Raises:
            InvalidRequest: a prompt has more tokens than the model reads.
        """
        prompts = counted_prompts(parameters, self._count, MAX_PROMPT_TOKENS)
        return {f"{field}_embeds": self._embed(prompt) for field, prompt in prompts.items()}

    def _count(self, prompt: str) -> int:
        tokenizer = self._pipeline.tokenizer
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        return len(tokenizer(chat).input_ids)

    def _embed(self, prompt: str) -> torch.Tensor:
        (embeds,), _ = self._pipeline.encode_prompt(
            prompt,
            device=self._device,
            do_classifier_free_guidance=False,
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
