"""Qwen-Image-Edit, for one picture, and Qwen-Image-Edit-2509, for up to three."""
