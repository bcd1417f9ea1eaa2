"""LongCat-Image's encoder: a prompt, its quotations character by character, through Qwen2.5-VL."""

import torch
from diffusers import LongCatImagePipeline
from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.domain.errors import InvalidRequest
from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module, load_part
from services.model_api.prompt_encoder import PromptEncoder
from services.model_api.stages import Images, Tensors
from services.model_families.longcat_image.spec import PROMPT_TOKENS


class LongCatImageEncoder(PromptEncoder):
    """Runs the published pipeline's own `encode_prompt`; its other components are absent.

    A prompt is drawn as it was written: the published pipeline lets the text encoder rewrite it
    first unless it is told not to.
    """

    def __init__(self, tokenizer: Qwen2Tokenizer, text_encoder: torch.nn.Module) -> None:
        super().__init__(text_encoder, PROMPT_TOKENS)
        self._pipeline = LongCatImagePipeline(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            text_processor=None,
            scheduler=None,
            vae=None,
            transformer=None,
        )

    def encode(self, parameters: GenerationParameters, _: Images = (), /) -> Tensors:
        """As PromptEncoder.encode.

        Raises:
            InvalidRequest: a prompt has more tokens than the model reads, or would be garbled.
        """
        _check_apostrophes("prompt", parameters.prompt)
        _check_apostrophes("negative_prompt", parameters.negative_prompt or "")
        return super().encode(parameters)

    def count(self, prompt: str) -> int:
        return sum(
            len(self._pipeline.tokenizer(piece, add_special_tokens=False).input_ids)
            for part, quoted in split_quotation(prompt)
            for piece in (part if quoted else [part])
        )

    def embed(self, prompt: str) -> torch.Tensor:
        embeds, _ = self._pipeline.encode_prompt(prompt)
        assert isinstance(embeds, torch.Tensor)
        return embeds


def _check_apostrophes(field: str, prompt: str) -> None:
    # The published pipeline sets words with an apostrophe inside aside while it looks for
    # quotations. It mixes them up if there are two, in an order that differs between processes.
    if "".join(part for part, _ in split_quotation(prompt)) != prompt:
        raise InvalidRequest.of(
            field,
            "contains different words with ' inside, which this model takes for one another;"
            " write \N{RIGHT SINGLE QUOTATION MARK} in them instead",
        )


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> LongCatImageEncoder:
    """Loads tokenizer and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    tokenizer = load_part(Qwen2Tokenizer, directory, "tokenizer")
    text_encoder = load_module(
        Qwen2_5_VLForConditionalGeneration, directory, "text_encoder", dtype, device
    )
    return LongCatImageEncoder(tokenizer, text_encoder)
