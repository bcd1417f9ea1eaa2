"""LongCat-Image and LongCat-Image-Edit: pictures from prompts, and edited."""
