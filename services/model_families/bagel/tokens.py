"""Tokens of pictures: patches and where they are.

Shapes: C channels; P patch side; R rows and K columns of patches; N = R * K tokens.
"""

import torch


def patches_of(picture: torch.Tensor, side: int) -> torch.Tensor:
    """Cuts [1, C, R * P, K * P] into [1, N, P * P * C], row by row, channels innermost."""
    _, channels, height, width = picture.shape
    grid = picture.reshape(1, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(1, -1, side * side * channels)


def picture_of_patches(patches: torch.Tensor, rows: int, columns: int, side: int) -> torch.Tensor:
    """Puts [1, N, P * P * C] together again as [1, C, R * P, K * P]."""
    grid = patches.reshape(1, rows, columns, side, side, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(1, -1, rows * side, columns * side)


def grid_positions(rows: int, columns: int, max_side: int) -> torch.Tensor:
    """The position [N] of every patch in a square grid of `max_side` patches per side."""
    row, column = torch.arange(rows), torch.arange(columns)
    return (row[:, None] * max_side + column).flatten()
