"""Ovis-Image: text to picture."""
