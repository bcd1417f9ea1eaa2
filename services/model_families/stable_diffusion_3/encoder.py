"""Stable Diffusion 3's encoders: one prompt through two CLIPs and T5."""

from collections.abc import Mapping

import torch
from diffusers import StableDiffusion3Pipeline
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

from services.domain.errors import InvalidRequest
from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module, load_part
from services.model_api.stages import Tensors
from services.model_families.stable_diffusion_3.spec import MAX_PROMPT_TOKENS

_TENSORS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)


class StableDiffusion3Encoder:
    """Runs the published pipeline's own `encode_prompt`; its other components are absent.

    T5 reads the whole prompt. The CLIPs read its opening, as they were trained: both together have
    a fifth of the conditioning, and the published loop gives them no more.
    """

    def __init__(
        self,
        tokenizers: Mapping[str, CLIPTokenizer | T5TokenizerFast],
        text_encoders: Mapping[str, torch.nn.Module],
        device: torch.device,
    ) -> None:
        self._text_encoders = text_encoders
        self._device = device
        self._pipeline = StableDiffusion3Pipeline(
            **tokenizers, **text_encoders, scheduler=None, vae=None, transformer=None
        )

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The three text encoders."""
        return self._text_encoders

    @torch.no_grad()
    def encode(self, parameters: GenerationParameters) -> Tensors:
        """Returns `prompt_embeds` [1, 333, width] and `pooled_prompt_embeds` [1, pooled width].

        When guided, both exist a second time with `negative_` before their names.

        Raises:
            InvalidRequest: a prompt has more tokens than T5 reads.
        """
        prompts = {"prompt": parameters.prompt, "negative_prompt": parameters.negative_prompt}
        # Both are counted before either is encoded: a refusal must cost nothing.
        for field, prompt in prompts.items():
            if prompt is not None:
                self._check_length(field, prompt)
        encoded = self._pipeline.encode_prompt(
            prompt=parameters.prompt,
            prompt_2=None,
            prompt_3=None,
            negative_prompt=parameters.negative_prompt,
            do_classifier_free_guidance=parameters.guided,
            device=self._device,
            max_sequence_length=MAX_PROMPT_TOKENS,
        )
        return {
            name: tensor
            for name, tensor in zip(_TENSORS, encoded, strict=True)
            if tensor is not None
        }

    def _check_length(self, field: str, prompt: str) -> None:
        # The published pipeline would cut.
        tokens = len(self._pipeline.tokenizer_3(prompt).input_ids)
        if tokens > MAX_PROMPT_TOKENS:
            raise InvalidRequest.of(
                field, f"has {tokens} tokens; allowed are at most {MAX_PROMPT_TOKENS}"
            )


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> StableDiffusion3Encoder:
    """Loads three tokenizers and three text encoders.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    tokenizers = {
        "tokenizer": load_part(CLIPTokenizer, directory, "tokenizer"),
        "tokenizer_2": load_part(CLIPTokenizer, directory, "tokenizer_2"),
        "tokenizer_3": load_part(T5TokenizerFast, directory, "tokenizer_3"),
    }
    text_encoders = {
        name: load_module(kind, directory, name, dtype, device)
        for name, kind in (
            ("text_encoder", CLIPTextModelWithProjection),
            ("text_encoder_2", CLIPTextModelWithProjection),
            ("text_encoder_3", T5EncoderModel),
        )
    }
    return StableDiffusion3Encoder(tokenizers, text_encoders, device)
