"""LongCat-Image's VAE: latents to a picture."""

from services.model_api.image_vae import load_image_vae as load

__all__ = ["load"]
