"""LongCat-Image: text to picture."""
