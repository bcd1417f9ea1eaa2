"""Both ends of a VAE: the latents that arrive, and the picture that leaves."""

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
