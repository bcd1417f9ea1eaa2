"""Qwen-Image and Qwen-Image-2512: text to picture."""
