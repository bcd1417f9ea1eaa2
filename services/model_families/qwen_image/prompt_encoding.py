"""Qwen-Image's encoder: a prompt through Qwen2.5-VL."""

from typing import Any

import torch
from diffusers import QwenImageLayeredPipeline, QwenImagePipeline

from services.model_families.qwen_image.configuration import MAX_PROMPT_TOKENS
from services.numerics.prompts import PromptEncoder
from triptych.domain.errors import TriptychError


class QwenImageEncoder(PromptEncoder):
    """Runs the published pipeline's own `encode_prompt`.

    Args:
        pipeline: with its encoder components and no others.
        device: where the text encoder is.
    """

    def __init__(
        self, pipeline: QwenImagePipeline | QwenImageLayeredPipeline, device: torch.device
    ) -> None:
        super().__init__(pipeline.text_encoder, MAX_PROMPT_TOKENS)
        self._pipeline = pipeline
        self._device = device

    def count(self, prompt: str) -> int:
        return prompt_tokens(self._pipeline, prompt)

    def embed(self, prompt: str) -> torch.Tensor:
        embeds, mask = self._pipeline.encode_prompt(
            prompt=prompt, device=self._device, max_sequence_length=MAX_PROMPT_TOKENS
        )
        return unpadded(embeds, mask)


def prompt_tokens(pipeline: Any, prompt: str) -> int:  # noqa: ANN401 — published without types
    """The tokens of a prompt inside the template of one of the line's pipelines."""
    text = pipeline.prompt_template_encode.format(prompt)
    return len(pipeline.tokenizer(text).input_ids) - int(pipeline.prompt_template_encode_start_idx)


def unpadded(embeds: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The embeddings of a single prompt, which needs no mask.

    Raises:
        TriptychError: it has one.
    """
    if mask is not None:
        raise TriptychError("the text encoder padded a single prompt; its mask would be lost")
    return embeds
