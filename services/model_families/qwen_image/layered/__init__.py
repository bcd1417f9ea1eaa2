"""Qwen-Image-Layered: takes a picture apart into layers with an alpha channel."""
