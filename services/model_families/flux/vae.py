"""FLUX.1's VAE: latents to a picture."""

from services.numerics.image_vae import load_image_vae as load

__all__ = ["load"]
