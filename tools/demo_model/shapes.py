"""What the demo model is taught to draw: flat shapes on a flat background, rendered with PIL."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

IMAGE_SIZE = 128
"""Side of every training picture, in pixels."""

SUPERSAMPLING = 4
"""Pictures are drawn this many times larger and then reduced, which antialiases their edges."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (50, 170, 70),
    "blue": (38, 90, 210),
    "yellow": (250, 220, 50),
    "orange": (245, 140, 30),
    "purple": (130, 60, 180),
    "pink": (245, 135, 185),
    "brown": (130, 80, 45),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
}

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "diamond",
    "ring",
    "cross",
    "moon",
    "house",
)

Rgb: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Item:
    """One drawn shape: its centre and radius in pixels of the 128 x 128 picture."""

    shape: str
    rgb: Rgb
    x: float
    y: float
    radius: float


def render(background: Rgb, items: tuple[Item, ...]) -> npt.NDArray[np.uint8]:
    """Draws the items on the background.

    Returns:
        The picture, uint8 RGB of shape [128, 128, 3].
    """
    side = IMAGE_SIZE * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), background)
    pen = ImageDraw.Draw(canvas)
    for item in items:
        _draw(pen, item, background)
    small = canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8)


def _draw(pen: ImageDraw.ImageDraw, item: Item, background: Rgb) -> None:
    """Draws one item; a ring or a moon is a disc from which the background is cut out again."""
    if item.shape in _OUTLINES:
        pen.polygon([_place(item, point) for point in _OUTLINES[item.shape]], fill=item.rgb)
        return
    _disc(pen, item, (0.0, 0.0), 1.0, item.rgb)
    if item.shape == "ring":
        _disc(pen, item, (0.0, 0.0), 0.58, background)
    elif item.shape == "moon":
        _disc(pen, item, (0.45, 0.0), 0.84, background)
    elif item.shape != "circle":
        raise ValueError(f"unknown shape {item.shape!r}; known: {', '.join(SHAPES)}")


def _place(item: Item, point: Point) -> Point:
    """Maps a point of the unit outline (y down) to a pixel of the supersampled canvas."""
    return (
        (item.x + item.radius * point[0]) * SUPERSAMPLING,
        (item.y + item.radius * point[1]) * SUPERSAMPLING,
    )


def _disc(pen: ImageDraw.ImageDraw, item: Item, centre: Point, radius: float, fill: Rgb) -> None:
    left, top = _place(item, (centre[0] - radius, centre[1] - radius))
    right, bottom = _place(item, (centre[0] + radius, centre[1] + radius))
    pen.ellipse((left, top, right, bottom), fill=fill)


def _star() -> list[Point]:
    corners = []
    for corner in range(10):
        radius = 1.0 if corner % 2 == 0 else 0.42
        angle = -math.pi / 2 + corner * math.pi / 5
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


def _heart() -> list[Point]:
    """The classic heart curve, scaled so that its widest part is two radii wide."""
    outline = []
    for step in range(72):
        t = 2 * math.pi * step / 72
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        outline.append((x / 17, -(y + 2.5) / 17))
    return outline


def _cross() -> list[Point]:
    arm = 0.34
    quarter: list[Point] = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    outline: list[Point] = []
    for _ in range(4):
        outline.extend(quarter)
        quarter = [(-y, x) for x, y in quarter]
    return outline


_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -0.92), (1.0, 0.82), (-1.0, 0.82)],
    "star": _star(),
    "heart": _heart(),
    "diamond": [(0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)],
    "cross": _cross(),
    # The door is a notch: without it a small house is hard to tell from a square.
    "house": [
        (0.0, -1.0),
        (0.9, -0.2),
        (0.9, 0.9),
        (0.26, 0.9),
        (0.26, 0.28),
        (-0.26, 0.28),
        (-0.26, 0.9),
        (-0.9, 0.9),
        (-0.9, -0.2),
    ],
}
