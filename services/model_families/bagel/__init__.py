"""BAGEL, text to image and editing."""
