"""LongCat-Image-Edit's VAE: a picture to latents, and latents to a picture."""

from PIL import Image

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


load = LongCatImageEditVae.load
