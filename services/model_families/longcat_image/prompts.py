"""Prompts as LongCat-Image and LongCat-Image-Edit read them: quotations letter by letter."""

from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation
from transformers import Qwen2Tokenizer

from services.model_families.longcat_image.configuration import PROMPT_TOKENS
from services.numerics.prompts import counted_prompts
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import GenerationParameters


def checked_prompts(parameters: GenerationParameters, tokenizer: Qwen2Tokenizer) -> dict[str, str]:
    """The prompts to encode by the request's fields: the model will read each as it is written.

    Args:
        parameters: effective values; the negative prompt is one of the prompts if there is one.
        tokenizer: whose tokens the model's limit counts.

    Raises:
        InvalidRequest: a prompt has more tokens than the model reads, or would be garbled.
    """

    def count(prompt: str) -> int:
        return sum(
            len(tokenizer(piece, add_special_tokens=False).input_ids)
            for part, quoted in split_quotation(prompt)
            for piece in (part if quoted else [part])
        )

    prompts = counted_prompts(parameters, count, PROMPT_TOKENS)
    for field, prompt in prompts.items():
        if is_garbled(prompt):
            raise InvalidRequest.of(
                field,
                "contains different words with ' inside, which this model takes for one another;"
                " write \N{RIGHT SINGLE QUOTATION MARK} in them instead",
            )
    return prompts


def is_garbled(prompt: str) -> bool:
    """Whether the published pipelines would read other words than a prompt has.

    They set words with an apostrophe inside aside while they look for quotations. They mix them up
    if there are two, in an order that differs between processes.
    """
    return "".join(part for part, _ in split_quotation(prompt)) != prompt


def check_placeholders(field: str, prompt: str, placeholders: tuple[str, ...]) -> None:
    """Refuses a prompt with text that the model takes for a picture.

    Raises:
        InvalidRequest: it contains one of the placeholders.
    """
    for placeholder in placeholders:
        if placeholder in prompt:
            raise InvalidRequest.of(
                field, f"contains {placeholder}, which this model takes for a picture; leave it out"
            )
