"""LongCat-Image-Edit: a picture and what to change in it, to a picture."""
