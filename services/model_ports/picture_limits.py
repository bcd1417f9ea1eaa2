"""Limits of a request for one picture that come from this project rather than from a model."""

from typing import TypedDict


class PictureLimits(TypedDict):
    """Fields of Capabilities, in pixels, steps and characters."""

    max_prompt_characters: int
    size_multiple: int
    min_side: int
    max_side: int
    max_pixels: int
    max_steps: int


def picture_limits(size_multiple: int) -> PictureLimits:
    """The limits for a model whose sides are multiples of so many pixels."""
    return {
        "max_prompt_characters": 4096,
        "size_multiple": size_multiple,
        "min_side": 2 * size_multiple,
        "max_side": 4096,
        "max_pixels": 2048 * 2048,
        "max_steps": 200,
    }
