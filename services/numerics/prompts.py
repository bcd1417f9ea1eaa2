"""The prompts of a request: counted, encoded one by one, and written by a seed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock

import torch

from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
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


class PromptEncoder(ABC):
    """Families say how a prompt is counted and how it is encoded.

    Args:
        text_encoder: the only component that is loaded.
        max_tokens: the most that `count` may give for a prompt.
    """

    def __init__(self, text_encoder: torch.nn.Module, max_tokens: int) -> None:
        self._text_encoder = text_encoder
        self._max_tokens = max_tokens

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The text encoder."""
        return {"text_encoder": self._text_encoder}

    def encodings(
        self, parameters: GenerationParameters, _: Images = (), /
    ) -> tuple[Encoding, ...]:
        """To `prompt_embeds` [1, tokens, width]; when guided, `negative_prompt_embeds` too.

        Raises:
            InvalidRequest: a prompt has more tokens than the model reads.
        """
        prompts = counted_prompts(parameters, self.count, self._max_tokens)
        return prompt_encodings(prompts, self.conditioning)

    def conditioning(self, prompt: str) -> dict[str, torch.Tensor]:
        """The tensors of a prompt that is not too long."""
        return {"prompt_embeds": self.embed(prompt)}

    @abstractmethod
    def count(self, prompt: str) -> int:
        """The tokens of a prompt, as the model's limit counts them."""

    @abstractmethod
    def embed(self, prompt: str) -> torch.Tensor:
        """The conditioning [1, tokens, width] of a prompt that is not too long."""


# A process may hold several models, each with a thread of its own.
_GENERATORS = Lock()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators inside, and leaves them outside as they were; one at a time.

    Args:
        seed: 0 to 2**63 - 1.
        device: whose generator is seeded beside the host's.
    """
    devices = [] if device.type == "cpu" else [device]
    with (
        _GENERATORS,
        torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"),
    ):
        torch.manual_seed(seed)
        yield
