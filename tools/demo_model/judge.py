"""Looks at a picture and says whether it shows what its caption asks for.

The background is the median of the border; whatever differs from it falls into connected
components; a component's median gives its colour, and its mask, stretched to its bounding box,
is compared with every shape's to give its shape.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.demo_model.captions import Scene, Thing
from tools.demo_model.shapes import PALETTE, SHAPES, Item, render

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_BORDER = 3
_FOREGROUND_DISTANCE = 60.0
"""Distance in RGB from the background beyond which a pixel belongs to a shape."""

_MIN_AREA = 40
"""Components of fewer pixels are specks, not shapes."""

_TEMPLATE_SIDE = 48
_TEMPLATE_RADII = (17.0, 24.0, 36.0, 52.0)


@dataclass(frozen=True)
class Component:
    """A connected region: its pixels, its centre in pixels, and what it looks like."""

    mask: Mask
    x: float
    y: float
    thing: Thing


@dataclass(frozen=True)
class Verdict:
    """Which parts of a caption a picture gets right."""

    background: bool
    count: bool
    colour: bool
    shape: bool

    @property
    def correct(self) -> bool:
        """Whether every part is right."""
        return self.background and self.count and self.colour and self.shape


def judge_picture(pixels: Pixels, scene: Scene) -> Verdict:
    """Compares a picture with the scene its caption describes.

    Args:
        pixels: The picture, uint8 RGB [128, 128, 3].
        scene: What it should show.
    """
    background = border_colour(pixels)
    components = find_components(pixels, background)
    expected = scene.in_space()
    # Things are told apart by place: from top to bottom, or from left to right.
    vertical = scene.relation in ("above", "below")
    found = [part.thing for part in sorted(components, key=lambda c: c.y if vertical else c.x)]
    if scene.relation == "and":
        found = _best_order(found, expected)
    count = len(found) == len(expected)
    pairs = list(zip(found, expected, strict=False))
    return Verdict(
        background=nearest_colour(background) == scene.background,
        count=count,
        colour=count and all(thing.colour == wanted.colour for thing, wanted in pairs),
        shape=count and all(thing.shape == wanted.shape for thing, wanted in pairs),
    )


def border_colour(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Median colour of the picture's border, RGB in 0..255."""
    inner = np.ones(pixels.shape[:2], dtype=bool)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return np.asarray(np.median(pixels[inner], axis=0), dtype=np.float64)


def nearest_colour(rgb: npt.NDArray[np.float64]) -> str:
    """Name of the palette's colour nearest to `rgb`."""
    names = list(PALETTE)
    distances = np.linalg.norm(np.array([PALETTE[name] for name in names]) - rgb, axis=1)
    return names[int(distances.argmin())]


def find_components(pixels: Pixels, background: npt.NDArray[np.float64]) -> list[Component]:
    """Finds the shapes on the background."""
    values = pixels.astype(np.float64)
    away = np.linalg.norm(values - background, axis=2)
    components = []
    for region in _connected(away > _FOREGROUND_DISTANCE):
        colour = np.median(values[region], axis=0)
        # Edges are blends: a pixel belongs to whichever of the two colours is nearer.
        mask = region & (np.linalg.norm(values - colour, axis=2) < away)
        if mask.sum() < _MIN_AREA:
            continue
        rows, columns = np.nonzero(mask)
        thing = Thing(nearest_shape(mask), nearest_colour(colour))
        components.append(Component(mask, float(columns.mean()), float(rows.mean()), thing))
    return components


def nearest_shape(mask: Mask) -> str:
    """Name of the shape whose outline overlaps the mask best."""
    stretched = _stretch(mask)
    scores = {
        shape: max(_overlap(stretched, template) for template in templates)
        for shape, templates in _templates().items()
    }
    return max(scores, key=lambda shape: scores[shape])


@cache
def _templates() -> dict[str, tuple[npt.NDArray[np.float64], ...]]:
    """Every shape's stretched mask at several radii."""
    white, black = PALETTE["white"], PALETTE["black"]
    return {
        shape: tuple(
            _stretch(render(white, (Item(shape, black, 64.0, 64.0, radius),))[:, :, 0] < 128)
            for radius in _TEMPLATE_RADII
        )
        for shape in SHAPES
    }


def _stretch(mask: Mask) -> npt.NDArray[np.float64]:
    """The mask's bounding box, scaled to a square of values in 0..1."""
    rows, columns = np.nonzero(mask)
    box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    picture = Image.fromarray(box.astype(np.uint8) * 255)
    side = (_TEMPLATE_SIDE, _TEMPLATE_SIDE)
    scaled = picture.resize(side, Image.Resampling.BILINEAR)
    return np.asarray(scaled, dtype=np.float64) / 255.0


def _overlap(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Intersection over union of two soft masks."""
    return float(np.minimum(left, right).sum() / np.maximum(left, right).sum())


def _connected(foreground: Mask) -> list[Mask]:
    """Splits a mask into its 4-connected components of at least `_MIN_AREA` pixels."""
    left = foreground.copy()
    masks = []
    while left.any():
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        mask = np.zeros_like(left)
        stack = [(int(row), int(column))]
        left[row, column] = False
        while stack:
            y, x = stack.pop()
            mask[y, x] = True
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= near[0] < left.shape[0] and 0 <= near[1] < left.shape[1]
                if inside and left[near]:
                    left[near] = False
                    stack.append(near)
        if mask.sum() >= _MIN_AREA:
            masks.append(mask)
    return masks


def _best_order(found: list[Thing], expected: tuple[Thing, ...]) -> list[Thing]:
    """Orders things as expected when they are the same ones: "and" says nothing of sides."""
    return list(expected) if Counter(found) == Counter(expected) else found
