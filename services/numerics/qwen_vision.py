"""How many tokens Qwen2.5-VL's vision tower makes of a picture, computed without torch."""

import math

TOKEN_SIDE = 28
"""In pixels: two by two patches of 14 become one token."""

_MIN_AREA = 56 * 56


def picture_tokens(width: int, height: int) -> int:
    """Tokens of a picture of about a megapixel or less, by its sides in pixels.

    Sides are rounded to whole tokens; a picture that is smaller than is published is enlarged.
    """
    across, down = round(width / TOKEN_SIDE), round(height / TOKEN_SIDE)
    if across * down * TOKEN_SIDE**2 < _MIN_AREA:
        side = TOKEN_SIDE / math.sqrt(_MIN_AREA / (width * height))
        across, down = math.ceil(width / side), math.ceil(height / side)
    return across * down
