"""BAGEL's encoder: embeds a prompt, and looks at the picture that is to be edited."""

from collections.abc import Mapping
from functools import partial

import torch
from PIL import Image
from torch import nn
from transformers import Qwen2Tokenizer, SiglipVisionConfig, SiglipVisionModel
from transformers.activations import ACT2FN

from services.model_families.bagel.checkpoint import (
    language_model_config,
    load_published,
    of_vision_tower,
    vision_config,
)
from services.model_families.bagel.flow_transformer import PositionEmbedding
from services.model_families.bagel.pictures import grid_positions, patches_of, vision_pixels
from services.model_families.bagel.spec import MAX_PROMPT_TOKENS, MAX_VISION_SIDE
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_part
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.prompts import counted_prompts
from triptych.domain.conditioning_reuse import ConditioningPart
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters


class Connector(nn.Module):
    """Two linear layers from the tower's width to the language model's."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, width)
        self.activation_fn = ACT2FN["gelu_pytorch_tanh"]
        self.fc2 = nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        connected: torch.Tensor = self.fc2(self.activation_fn(self.fc1(hidden)))
        return connected


class VisionTower(nn.Module):
    """Tokens of a picture, one per patch.

    Args:
        config: of the vision model; its layers are all used.
        width: D.
        max_side: patches per side of the largest picture.
    """

    def __init__(self, config: SiglipVisionConfig, width: int, max_side: int) -> None:
        super().__init__()
        self._patch_size: int = config.patch_size
        self._max_side = max_side
        self.vit_model = SiglipVisionModel(config)
        # Of pictures of one size; neither used nor loaded.
        del self.vit_model.embeddings.position_ids
        # Published so: a patch has its channels innermost.
        self.vit_model.embeddings.patch_embedding = nn.Linear(
            config.num_channels * config.patch_size**2, config.hidden_size
        )
        self.connector = Connector(config.hidden_size, width)
        self.vit_pos_embed = PositionEmbedding(max_side, width)

    @property
    def patch_size(self) -> int:
        """Pixels per patch, on each side."""
        return self._patch_size

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens [1, N, D] of pixels [1, 3, height, width] from -1 to 1."""
        _, _, height, width = pixels.shape
        rows, columns = height // self._patch_size, width // self._patch_size
        positions = grid_positions(rows, columns, self._max_side).to(pixels.device)
        embeddings = self.vit_model.embeddings
        patches = patches_of(pixels, self._patch_size).to(embeddings.patch_embedding.weight.dtype)
        hidden = embeddings.patch_embedding(patches) + embeddings.position_embedding(positions)
        hidden = self.vit_model.encoder(inputs_embeds=hidden).last_hidden_state
        seen = self.connector(self.vit_model.post_layernorm(hidden))
        tokens: torch.Tensor = seen + self.vit_pos_embed(positions)
        return tokens


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
        lambda: VisionTower(vision, config.hidden_size, MAX_VISION_SIDE),
        directory,
        dtype,
        device,
        of_vision_tower,
    )
    return BagelEncoder(tokenizer, tokens, tower, device)
