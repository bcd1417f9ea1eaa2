"""FLUX.1's encoders: a prompt through CLIP and T5."""

from collections.abc import Mapping

import torch
from diffusers import FluxPipeline
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from services.model_families.flux.spec import PROMPT_TOKENS
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.prompts import counted_prompts
from triptych.domain.generation import GenerationParameters


class FluxEncoder:
    """Runs the published pipeline's own `encode_prompt`; its other components are absent.

    T5 reads the whole prompt. CLIP gives one summary of its first 77 tokens, as published.
    """

    def __init__(self, pipeline: FluxPipeline, device: torch.device) -> None:
        self._pipeline = pipeline
        self._device = device

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """CLIP and T5."""
        return {
            "text_encoder": self._pipeline.text_encoder,
            "text_encoder_2": self._pipeline.text_encoder_2,
        }

    def encodings(
        self, parameters: GenerationParameters, _: Images = (), /
    ) -> tuple[Encoding, ...]:
        """To `prompt_embeds` [1, PROMPT_TOKENS, width], `pooled_prompt_embeds` [1, width].

        With true guidance also both of the negative prompt, `negative_` before their names.

        Raises:
            InvalidRequest: a prompt has more tokens than T5 reads.
        """
        prompts = counted_prompts(parameters, self._count, PROMPT_TOKENS)
        return prompt_encodings(prompts, self._embed)

    def _embed(self, prompt: str) -> dict[str, torch.Tensor]:
        embeds, pooled, _ = self._pipeline.encode_prompt(
            prompt=prompt, device=self._device, max_sequence_length=PROMPT_TOKENS
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _count(self, prompt: str) -> int:
        return len(self._pipeline.tokenizer_2(prompt).input_ids)


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> FluxEncoder:
    """Loads both tokenizers and text encoders.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    pipeline = FluxPipeline(
        tokenizer=load_part(CLIPTokenizer, directory, "tokenizer"),
        tokenizer_2=load_part(T5TokenizerFast, directory, "tokenizer_2"),
        text_encoder=load_module(CLIPTextModel, directory, "text_encoder", dtype, device),
        text_encoder_2=load_module(T5EncoderModel, directory, "text_encoder_2", dtype, device),
        scheduler=None,
        vae=None,
        transformer=None,
    )
    return FluxEncoder(pipeline, device)
