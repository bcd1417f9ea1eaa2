"""How large BAGEL sees an input image. Every size here is a width and a height in pixels."""

from typing import Final

from triptych.domain.image_fit import ImageFit

Size = tuple[int, int]

# 1024 patches of 14 x 14 pixels, nine times.
_MAX_PIXELS = 14 * 14 * 9 * 1024

VAE_FIT: Final = ImageFit(area=_MAX_PIXELS, multiple=16, shortest_edge=512, longest_edge=1024)
VISION_FIT: Final = ImageFit(area=_MAX_PIXELS, multiple=14, shortest_edge=224, longest_edge=980)


def vae_size(width: int, height: int) -> Size:
    """The size in which the VAE encodes an input image."""
    return VAE_FIT.size(width, height)


def vision_size(width: int, height: int) -> Size:
    """The size in which the vision tower reads one: it is given what the VAE was."""
    return VISION_FIT.size(*vae_size(width, height))
