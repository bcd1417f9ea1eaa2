"""Spreading one denoising step over the ranks of a group."""
