"""Qwen-Image: a prompt to a picture."""
