"""Stable Diffusion 3's encoders: one prompt through two CLIPs and T5, or the CLIPs alone."""

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from diffusers import StableDiffusion3Pipeline
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

from services.model_families.stable_diffusion_3.spec import (
    MAX_CLIP_TOKENS,
    MAX_PROMPT_TOKENS,
)
from services.model_files.configuration import TRANSFORMER_CONFIG, configured_size
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.prompts import counted_prompts
from triptych.domain.generation import GenerationParameters


class StableDiffusion3Encoder:
    """Runs the published pipeline's own `encode_prompt`; its other components are absent.

    T5 reads all of a prompt, and so sets its limit. The CLIPs read the first 77 tokens, as
    published: they can read no more. Where a model leaves T5 out, they set the limit, and its
    tokens are zeros.
    """

    def __init__(self, pipeline: StableDiffusion3Pipeline, device: torch.device) -> None:
        self._pipeline = pipeline
        self._device = device

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """Both CLIPs, and T5 where the model has it."""
        named = ("text_encoder", "text_encoder_2", "text_encoder_3")
        held = {name: getattr(self._pipeline, name) for name in named}
        return {name: module for name, module in held.items() if module is not None}

    def encodings(
        self, parameters: GenerationParameters, _: Images = (), /
    ) -> tuple[Encoding, ...]:
        """To `prompt_embeds` [1, 333, width] and `pooled_prompt_embeds` [1, pooled width].

        When guided, both exist a second time with `negative_` before their names.

        Raises:
            InvalidRequest: a prompt has more tokens than T5 reads, or without it the CLIPs.
        """
        limit = MAX_PROMPT_TOKENS if self._pipeline.text_encoder_3 else MAX_CLIP_TOKENS
        prompts = counted_prompts(parameters, self._count, limit)
        return prompt_encodings(prompts, self._embed)

    def _embed(self, prompt: str) -> dict[str, torch.Tensor]:
        embeds, _, pooled, _ = self._pipeline.encode_prompt(
            prompt=prompt,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            device=self._device,
            max_sequence_length=MAX_PROMPT_TOKENS,
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _count(self, prompt: str) -> int:
        tokenizer = self._pipeline.tokenizer_3 or self._pipeline.tokenizer
        return len(tokenizer(prompt).input_ids)


class _TransformersConfiguration(SimpleNamespace):
    """In the transformer's place: the pipeline reads there how wide the zeros of no T5 are."""


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> StableDiffusion3Encoder:
    """Loads three tokenizers and three text encoders, or two where there is no T5.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    t5, t5_tokenizer = None, None
    if directory.setting("text_encoder_3") != [None, None]:
        t5_tokenizer = load_part(T5TokenizerFast, directory, "tokenizer_3")
        t5 = load_module(T5EncoderModel, directory, "text_encoder_3", dtype, device)
    pipeline = StableDiffusion3Pipeline(
        tokenizer=load_part(CLIPTokenizer, directory, "tokenizer"),
        tokenizer_2=load_part(CLIPTokenizer, directory, "tokenizer_2"),
        tokenizer_3=t5_tokenizer,
        text_encoder=load_module(
            CLIPTextModelWithProjection, directory, "text_encoder", dtype, device
        ),
        text_encoder_2=load_module(
            CLIPTextModelWithProjection, directory, "text_encoder_2", dtype, device
        ),
        text_encoder_3=t5,
        scheduler=None,
        vae=None,
        transformer=None,
    )
    if t5 is None:
        width = configured_size(directory, TRANSFORMER_CONFIG, "joint_attention_dim")
        config = SimpleNamespace(joint_attention_dim=width)
        pipeline.transformer = _TransformersConfiguration(config=config)
    return StableDiffusion3Encoder(pipeline, device)
