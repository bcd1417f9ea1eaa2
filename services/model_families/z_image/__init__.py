"""Z-Image and Z-Image-Turbo, text to image."""
