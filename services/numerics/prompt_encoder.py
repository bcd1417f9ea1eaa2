"""An encoder that reads the prompt and the negative prompt one by one, the same way."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.prompts import counted_prompts
from triptych.domain.generation import GenerationParameters


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
