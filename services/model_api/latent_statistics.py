"""Latents that are normalised by a mean and a deviation per channel, as video VAEs' are."""

from collections.abc import Sequence
from typing import Protocol

import torch


class LatentStatistics(Protocol):
    """What such a VAE's configuration says."""

    z_dim: int
    latents_mean: Sequence[float]
    latents_std: Sequence[float]


def unnormalise(latents: torch.Tensor, config: LatentStatistics) -> torch.Tensor:
    """The VAE's own latents from the denoiser's [1, C, T, H, W].

    The order of operations is the published one, with the reciprocal: anything else loses bits.
    """
    mean, reciprocal = _per_channel(config, latents)
    return latents / reciprocal + mean


def _per_channel(
    config: LatentStatistics, latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (1, config.z_dim, 1, 1, 1)
    mean = torch.tensor(config.latents_mean).view(shape).to(latents.device, latents.dtype)
    deviation = torch.tensor(config.latents_std).view(shape).to(latents.device, latents.dtype)
    return mean, 1.0 / deviation
