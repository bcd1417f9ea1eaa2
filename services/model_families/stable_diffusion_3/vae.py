"""Stable Diffusion 3's VAE: latents to a picture."""

from services.model_api.image_vae import load_image_vae

load = load_image_vae
