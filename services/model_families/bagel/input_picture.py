"""An input image as BAGEL's networks take it: resized by the published rules, from -1 to 1."""

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from services.model_families.bagel.resizing import Size, vae_size, vision_size

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
