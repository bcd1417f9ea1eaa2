"""LongCat-Image: a prompt to a picture."""
