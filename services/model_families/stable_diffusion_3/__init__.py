"""Stable Diffusion 3.5, text to image."""
