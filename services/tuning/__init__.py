"""Measures what caches gain and cost on one model, and writes what a denoiser serves of it."""
