"""Pictures as BAGEL's networks take them: resized by the published rules, and cut into patches."""

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from services.model_families.bagel.spec import Size, vae_size, vision_size

_IMAGES = VaeImageProcessor()


def vae_pixels(image: Image.Image) -> torch.Tensor:
    """Pixels [1, 3, height, width] for the VAE, in float32."""
    return _pixels(_resized(_on_white(image), vae_size(*image.size)))


def vision_pixels(image: Image.Image) -> torch.Tensor:
    """Pixels [1, 3, height, width] for the vision tower, in float32.

    They are resized twice, since the published model looks at what its VAE was given.
    """
    once = _resized(_on_white(image), vae_size(*image.size))
    return _pixels(_resized(once, vision_size(*image.size)))


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    transparent = image.convert("RGBA")
    opaque = Image.new("RGB", image.size, "white")
    opaque.paste(transparent, mask=transparent.getchannel("A"))
    return opaque


def _resized(image: Image.Image, size: Size) -> Image.Image:
    return image.resize(size, Image.Resampling.BICUBIC)


def _pixels(image: Image.Image) -> torch.Tensor:
    pixels: torch.Tensor = _IMAGES.numpy_to_pt(_IMAGES.pil_to_numpy(image))
    # With channels innermost in memory, group norms lose three digits on a CPU.
    return (2.0 * pixels - 1.0).contiguous()


def patches_of(picture: torch.Tensor, side: int) -> torch.Tensor:
    """Cuts [1, C, R * P, K * P] into [1, N, P * P * C], row by row, channels innermost."""
    _, channels, height, width = picture.shape
    grid = picture.reshape(1, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(1, -1, side * side * channels)


def picture_of_patches(patches: torch.Tensor, rows: int, columns: int, side: int) -> torch.Tensor:
    """Puts [1, N, P * P * C] together again as [1, C, R * P, K * P]."""
    grid = patches.reshape(1, rows, columns, side, side, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(1, -1, rows * side, columns * side)


def grid_positions(rows: int, columns: int, max_side: int) -> torch.Tensor:
    """The position [N] of every patch in a square grid of `max_side` patches per side."""
    row, column = torch.arange(rows), torch.arange(columns)
    return (row[:, None] * max_side + column).flatten()
