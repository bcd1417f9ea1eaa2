"""How the size of a picture follows from that of an input image."""

import math

from pydantic import BaseModel, ConfigDict


class ImageFit(BaseModel):
    """Nearly a given area, with an image's proportions.

    Attributes:
        area: in pixels.
        multiple: sides are multiples of this many pixels.
        rounds_up: to the next multiple rather than to the nearest.
        overridable: whether a request may ask for another width and height.
    """

    model_config = ConfigDict(frozen=True)

    area: int
    multiple: int
    rounds_up: bool = False
    overridable: bool = True

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height for an image of that width and height, all in pixels.

        The arithmetic is that of the published pipelines' `calculate_dimensions`, in its order.
        """
        ratio = width / height
        fitted_width = math.sqrt(self.area * ratio)
        return self._rounded(fitted_width), self._rounded(fitted_width / ratio)

    def _rounded(self, side: float) -> int:
        if self.rounds_up:
            return math.ceil(side / self.multiple) * self.multiple
        return round(side / self.multiple) * self.multiple
