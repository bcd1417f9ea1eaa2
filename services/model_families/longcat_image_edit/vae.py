"""LongCat-Image-Edit's VAE: a picture to latents, and latents to a picture."""

import torch
from PIL import Image

from services.domain.generation import GenerationParameters
from services.model_api.image_vae import ImageVae


class LongCatImageEditVae(ImageVae):
    """LongCat-Image's, which also encodes."""

    def encode_image(
        self, parameters: GenerationParameters, index: int, image: Image.Image
    ) -> torch.Tensor:
        """Latents [1, C, H, W] of the picture, scaled to the size that is drawn."""
        return self.encode_picture(image.convert("RGB"), (parameters.width, parameters.height))


load = LongCatImageEditVae.load
