"""How a VAE works on pictures that are larger than a tile."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """Pictures are encoded and decoded in squares that overlap and are blended.

    Attributes:
        size: side of a tile in pixels; None for what the model's VAE has by default.
        overlap: share of a tile that it has in common with the next; None likewise.
    """

    size: int | None = None
    overlap: float | None = None
