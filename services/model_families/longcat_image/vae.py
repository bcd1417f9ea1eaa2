"""LongCat's VAEs: latents to a picture, and for -Edit a picture to latents."""

import torch
from PIL import Image

from services.model_families.longcat_image.spec import EDIT
from services.model_files.directory import ModelDirectory
from services.model_ports.encoding import Encoding, image_encoding
from services.numerics.image_vae import ImageVae
from triptych.domain.generation import GenerationParameters


class LongCatImageEditVae(ImageVae):
    """LongCat-Image's, which also encodes."""

    def image_encoding(
        self, parameters: GenerationParameters, index: int, image: Image.Image
    ) -> Encoding:
        """To latents [1, C, H, W] of the picture, scaled to the size that is drawn."""
        size = (parameters.width, parameters.height)
        return image_encoding(index, lambda: self.encode_picture(image.convert("RGB"), size), *size)


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> ImageVae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded, or does not say how its latents are normalised.
    """
    kind = LongCatImageEditVae if directory.pipeline_class == EDIT else ImageVae
    return kind.load(directory, dtype, device)
