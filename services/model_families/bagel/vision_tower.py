"""How BAGEL sees an input image: SigLIP at any size, connected to the language model.

Shapes: N patches, V values of one, D token width of the language model.
"""

import torch
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.activations import ACT2FN

from services.model_families.bagel.embeddings import PositionEmbedding
from services.model_families.bagel.tokens import grid_positions, patches_of


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
