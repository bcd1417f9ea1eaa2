"""LongCat-Image's encoder: a prompt through Qwen2.5-VL, which may rewrite it first."""

import re
from collections.abc import Mapping

import torch
from diffusers import LongCatImagePipeline
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.model_families.longcat_image.prompts import (
    check_placeholders,
    checked_prompts,
    is_garbled,
)
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.prompts import seeded
from services.numerics.still_image_processor import load_processor
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.family_options import LongCatOptions
from triptych.domain.generation import GenerationParameters

_APOSTROPHE_INSIDE_A_WORD = re.compile(r"(?<=[a-zA-Z])'(?=[a-zA-Z])")


class LongCatImageEncoder:
    """Runs the published pipeline's own methods.

    Args:
        pipeline: with its encoder components and no others.
        device: where the text encoder is.
    """

    def __init__(self, pipeline: LongCatImagePipeline, device: torch.device) -> None:
        self._pipeline = pipeline
        self._device = device

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The text encoder."""
        return {"text_encoder": self._pipeline.text_encoder}

    def encodings(
        self, parameters: GenerationParameters, _: Images = (), /
    ) -> tuple[Encoding, ...]:
        """To `prompt_embeds` [1, tokens, width]; when guided, `negative_prompt_embeds` too.

        Raises:
            InvalidRequest: a prompt has more tokens than the model reads, or would be garbled.
        """
        prompts = checked_prompts(parameters, self._pipeline.tokenizer)
        return prompt_encodings(prompts, self._embed)

    @torch.no_grad()
    def write_prompt(self, parameters: GenerationParameters, _: Images, /) -> str | None:
        """The prompt, but not the negative one, rewritten by the published instruction.

        Where the text encoder's generation_config.json says that words are drawn at random, the
        request's seed decides them; on another kind of device it means other words.

        Raises:
            InvalidRequest: the prompt cannot be rewritten, or what came of it cannot be drawn.
        """
        options = parameters.options
        if not isinstance(options, LongCatOptions) or not options.rewrite_prompt:
            return None
        processor = self._pipeline.text_processor
        check_placeholders(
            "prompt", parameters.prompt, (processor.image_token, processor.video_token)
        )
        with seeded(parameters.seed, self._device):
            (written,) = self._pipeline.rewire_prompt(parameters.prompt, self._device)
        assert isinstance(written, str)
        # A person can be asked to write otherwise, a language model cannot. Nothing published is
        # departed from: what the published pipeline reads here differs between processes.
        if is_garbled(written):
            written = _APOSTROPHE_INSIDE_A_WORD.sub("\N{RIGHT SINGLE QUOTATION MARK}", written)
        self._check_written(parameters, written)
        return written

    def _check_written(self, parameters: GenerationParameters, written: str) -> None:
        if not written.strip():
            raise _unusable("is empty")
        alone = parameters.model_copy(update={"prompt": written, "negative_prompt": None})
        try:
            checked_prompts(alone, self._pipeline.tokenizer)
        except InvalidRequest as error:
            raise _unusable(error.violations[0].description) from error

    def _embed(self, prompt: str) -> dict[str, torch.Tensor]:
        embeds, _ = self._pipeline.encode_prompt(prompt)
        return {"prompt_embeds": embeds}


def _unusable(why: str) -> InvalidRequest:
    return InvalidRequest.of(
        "long_cat.rewrite_prompt",
        f"made of this prompt one that {why}; change the prompt or the seed, or leave it off",
    )


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> LongCatImageEncoder:
    """Loads tokenizer, processor and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded, or cannot hold a conversation.
    """
    processor = load_processor(directory, "text_processor")
    if processor.chat_template is None:
        raise ConfigurationError(
            f"{directory.path / 'text_processor'}: has no chat template, with which prompts are"
            " rewritten"
        )
    pipeline = LongCatImagePipeline(
        tokenizer=load_part(Qwen2Tokenizer, directory, "tokenizer"),
        text_processor=processor,
        text_encoder=load_module(
            Qwen2_5_VLForConditionalGeneration, directory, "text_encoder", dtype, device
        ),
        scheduler=None,
        vae=None,
        transformer=None,
    )
    return LongCatImageEncoder(pipeline, device)
