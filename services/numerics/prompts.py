"""The prompts of a request, counted before any is encoded."""

from collections.abc import Callable

from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import GenerationParameters


def counted_prompts(
    parameters: GenerationParameters, count: Callable[[str], int], max_tokens: int
) -> dict[str, str]:
    """The prompts to encode by the request's fields: all of them fit, so none will be cut.

    Args:
        parameters: effective values; the negative prompt is one of the prompts if there is one.
        count: the tokens of a prompt, as the model's limit counts them.
        max_tokens: that limit.

    Raises:
        InvalidRequest: a prompt has more tokens; raised before anything is encoded.
    """
    prompts = {"prompt": parameters.prompt}
    if parameters.negative_prompt is not None:
        prompts["negative_prompt"] = parameters.negative_prompt
    for field, prompt in prompts.items():
        tokens = count(prompt)
        if tokens > max_tokens:
            raise InvalidRequest.of(field, f"has {tokens} tokens; allowed are at most {max_tokens}")
    return prompts
