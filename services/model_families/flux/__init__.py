"""FLUX.1-dev and FLUX.1-schnell: text to picture."""
