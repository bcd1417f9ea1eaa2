"""Qwen-Image's encoder: a prompt through Qwen2.5-VL."""

from collections.abc import Mapping

import torch
from diffusers import QwenImagePipeline
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.domain.errors import InvalidRequest, TriptychError
from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module, load_part
from services.model_api.stages import Tensors
from services.model_families.qwen_image.spec import MAX_PROMPT_TOKENS


class QwenImageEncoder:
    """Runs the published pipeline's own `encode_prompt`; its other components are absent."""

    def __init__(
        self, tokenizer: Qwen2Tokenizer, text_encoder: torch.nn.Module, device: torch.device
    ) -> None:
        self._text_encoder = text_encoder
        self._device = device
        self._pipeline = QwenImagePipeline(
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
        prompts = {"prompt": parameters.prompt}
        if parameters.negative_prompt is not None:
            prompts["negative_prompt"] = parameters.negative_prompt
        # Both are counted before either is encoded: a refusal must cost nothing.
        for field, prompt in prompts.items():
            self._check_length(field, prompt)
        return {f"{field}_embeds": self._embed(prompt) for field, prompt in prompts.items()}

    def _check_length(self, field: str, prompt: str) -> None:
        # The published pipeline would cut silently.
        pipeline = self._pipeline
        text = pipeline.prompt_template_encode.format(prompt)
        opening = pipeline.prompt_template_encode_start_idx
        tokens = len(pipeline.tokenizer(text).input_ids) - opening
        if tokens > MAX_PROMPT_TOKENS:
            raise InvalidRequest.of(
                field, f"has {tokens} tokens; allowed are at most {MAX_PROMPT_TOKENS}"
            )

    def _embed(self, prompt: str) -> torch.Tensor:
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
