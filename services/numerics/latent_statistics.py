"""Latents that are normalised by a mean and a deviation per channel, as video VAEs' are."""

from collections.abc import Sequence
from typing import Protocol

import torch


class LatentStatistics(Protocol):
    """What such a VAE's configuration says."""

    z_dim: int
    latents_mean: Sequence[float]
    latents_std: Sequence[float]


def normalise(latents: torch.Tensor, config: LatentStatistics) -> torch.Tensor:
    """The denoiser's latents from the VAE's own [1, C, T, H, W], by the published arithmetic."""
    mean, deviation = _per_channel(config, latents)
    return (latents - mean) / deviation


def unnormalise(latents: torch.Tensor, config: LatentStatistics) -> torch.Tensor:
    """The VAE's own latents from the denoiser's [1, C, T, H, W].

    The order of operations is the published one, with the reciprocal: anything else loses bits.
    """
    mean, deviation = _per_channel(config, latents)
    return latents / (1.0 / deviation) + mean


def _per_channel(
    config: LatentStatistics, latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    mean, deviation = (
        torch.tensor(each).view(1, config.z_dim, 1, 1, 1).to(latents.device, latents.dtype)
        for each in (config.latents_mean, config.latents_std)
    )
    return mean, deviation
