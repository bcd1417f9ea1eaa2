"""Latents as a VAE takes and gives them, and the picture that they become."""

from collections.abc import Sequence
from typing import Protocol

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from services.model_ports.stages import Tensors
from triptych.domain.errors import InvalidRequest, TriptychError

_IMAGES = VaeImageProcessor()


def take_latents(latents: Tensors, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor `latents`, if it is the only one and has the shape a request needs.

    Raises:
        InvalidRequest: anything else came.
    """
    found = {name: tuple(tensor.shape) for name, tensor in latents.items()}
    if found != {"latents": shape}:
        raise InvalidRequest.of("latents", f"are {found}; this request needs latents of {shape}")
    return latents["latents"]


def picture_of(pixels: torch.Tensor) -> Image.Image:
    """The picture of pixels [1, 3, height, width] from -1 to 1, converted as published.

    Raises:
        TriptychError: a pixel is not finite; it would be black.
    """
    if not torch.isfinite(pixels).all():
        raise TriptychError(f"the VAE's picture is not finite in {pixels.dtype}")
    (image,) = _IMAGES.postprocess(pixels, output_type="pil")
    assert isinstance(image, Image.Image)
    return image


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
