"""BAGEL's encoder: embeds a prompt, and looks at the picture that is to be edited."""

from collections.abc import Mapping
from functools import partial

import torch
from PIL import Image
from torch import nn
from transformers import Qwen2Tokenizer

from services.model_families.bagel.checkpoint import (
    language_model_config,
    load_published,
    vision_config,
)
from services.model_families.bagel.input_picture import vision_pixels
from services.model_families.bagel.spec import MAX_PROMPT_TOKENS, MAX_VISION_SIDE
from services.model_families.bagel.vision_tower import VisionTower
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_part
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.prompts import counted_prompts
from triptych.domain.conditioning_reuse import ConditioningPart
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters

_PROMPT_MARKERS = ("<|im_start|>", "<|im_end|>")
_PICTURE_MARKERS = ("<|vision_start|>", "<|vision_end|>")


class Tokens(nn.Module):
    """The language model's table of tokens.

    Args:
        count: of tokens.
        width: values per token.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(count, width)

    def forward(self, ids: list[int]) -> torch.Tensor:
        """The values [1, tokens, width] of tokens."""
        weight = self.embed_tokens.weight
        embedded: torch.Tensor = self.embed_tokens(torch.tensor([ids], device=weight.device))
        return embedded


class BagelEncoder:
    """Gives the language model its input; the model itself reads it in the denoiser."""

    def __init__(
        self, tokenizer: Qwen2Tokenizer, tokens: Tokens, tower: VisionTower, device: torch.device
    ) -> None:
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._tower = tower
        self._device = device

    @property
    def components(self) -> Mapping[str, nn.Module]:
        """The table of tokens, and the vision tower with its connector."""
        return {"embed_tokens": self._tokens, "vit_model": self._tower}

    def encodings(
        self, parameters: GenerationParameters, images: Images = (), /
    ) -> tuple[Encoding, ...]:
        """To what the language model reads, each of its own width.

        `prompt_embeds` [1, tokens, width] are the prompt between its markers, `marker_embeds`
        [1, 2, width] those of a picture, and with an image `image_embeds` [1, patches, width] what
        the vision tower makes of it.

        Raises:
            InvalidRequest: the prompt has more tokens than may be read.
        """
        prompts = counted_prompts(
            parameters, lambda prompt: len(self._prompt_ids(prompt)), MAX_PROMPT_TOKENS
        )
        seen = [
            Encoding(ConditioningPart.IMAGE, (), partial(self._look_at, image), (number,))
            for number, image in enumerate(images)
        ]
        return (*prompt_encodings(prompts, self._embed), *seen)

    def _embed(self, prompt: str) -> dict[str, torch.Tensor]:
        return {
            "prompt_embeds": self._tokens(self._prompt_ids(prompt)),
            "marker_embeds": self._tokens(self._ids(_PICTURE_MARKERS)),
        }

    def _look_at(self, image: Image.Image) -> dict[str, torch.Tensor]:
        return {"image_embeds": self._tower(vision_pixels(image).to(self._device))}

    def _prompt_ids(self, prompt: str) -> list[int]:
        start, end = self._ids(_PROMPT_MARKERS)
        return [start, *self._tokenizer(prompt).input_ids, end]

    def _ids(self, tokens: tuple[str, ...]) -> list[int]:
        ids: list[int] = self._tokenizer.convert_tokens_to_ids(list(tokens))
        return ids


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> BagelEncoder:
    """Loads tokenizer, table of tokens and vision tower.

    Raises:
        ConfigurationError: they cannot be loaded, or do not go together.
    """
    tokenizer = load_part(Qwen2Tokenizer, directory, "")
    known = tokenizer.get_vocab()
    for token in (*_PROMPT_MARKERS, *_PICTURE_MARKERS):
        if token not in known:
            raise ConfigurationError(f"{directory.path}: the tokenizer has no token {token}")
    config, vision = language_model_config(directory), vision_config(directory)
    tokens = load_published(
        lambda: Tokens(config.vocab_size, config.hidden_size), directory, dtype, device
    )
    tower = load_published(
        lambda: VisionTower(vision, config.hidden_size, MAX_VISION_SIDE), directory, dtype, device
    )
    return BagelEncoder(tokenizer, tokens, tower, device)
