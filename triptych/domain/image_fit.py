"""How the size of a picture follows from that of an input image."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFit:
    """Nearly a given area, or nearly an image's own, with its proportions.

    Attributes:
        area_pixels: where edges are given, only images of a larger one are made smaller.
        multiple: sides are multiples of this many pixels.
        rounds_up: to the next multiple rather than to the nearest.
        overridable: whether a request may ask for another width and height.
        shortest_edge: images are made larger for it; 0 where the area decides.
        longest_edge: images are made smaller for it, whatever the shortest; 0 like the former.
    """

    area_pixels: int
    multiple: int
    rounds_up: bool = False
    overridable: bool = True
    shortest_edge: int = 0
    longest_edge: int = 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height for an image of that width and height, all in pixels.

        The arithmetic is that of the published pipelines' `calculate_dimensions`, in its order; for
        edges, that of BAGEL's resizing.
        """
        if self.longest_edge:
            return self._within_edges(width, height)
        ratio = width / height
        fitted_width = math.sqrt(self.area_pixels * ratio)
        return self._rounded(fitted_width), self._rounded(fitted_width / ratio)

    def _within_edges(self, width: int, height: int) -> tuple[int, int]:
        scale = min(self.longest_edge / max(width, height), 1.0)
        scale = max(scale, self.shortest_edge / min(width, height))
        size = self._scaled((width, height), scale)
        area = size[0] * size[1]
        if area > self.area_pixels:
            # Published: not its square root, so edges shrink more than they would have to.
            size = self._scaled(size, self.area_pixels / area)
        if max(size) > self.longest_edge:
            size = self._scaled(size, self.longest_edge / max(size))
        return size

    def _scaled(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        width, height = (max(self.multiple, self._rounded(round(edge * scale))) for edge in size)
        return width, height

    def _rounded(self, side: float) -> int:
        if self.rounds_up:
            return math.ceil(side / self.multiple) * self.multiple
        return round(side / self.multiple) * self.multiple
