"""What is added to tokens so that the model knows where and when they are."""

import torch
from diffusers.models.embeddings import Timesteps
from torch import nn

_FREQUENCIES = 256


class PositionEmbedding(nn.Module):
    """One vector for each place of a square grid; published as it was computed for training.

    Args:
        max_side: places per side.
        width: values per token.
    """

    def __init__(self, max_side: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(max_side**2, width))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """The vectors [1, N, width] of places [N]."""
        return self.pos_embed[positions][None]


class TimeEmbedding(nn.Module):
    """A vector for a noise level.

    Args:
        width: values per token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = Timesteps(_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0.0)
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: float) -> torch.Tensor:
        """The vector [1, 1, width] for a noise level between 0 and 1."""
        weight = next(self.mlp.parameters())
        waves = self.frequencies(torch.tensor([sigma], device=weight.device))
        vector: torch.Tensor = self.mlp(waves.to(weight.dtype))
        return vector[None]
