"""Small pictures straight from latents, by a linear map that is fitted to a VAE."""

from typing import Self

import torch
from PIL import Image
from torch.nn import functional

from services.numerics.latents import picture_of
from triptych.domain.errors import InvalidRequest, TriptychError

PIXELS_PER_LATENT = 2
"""Of a preview, on each side."""
# Each pixel is made of its latent and the eight around it.
_WINDOW = 3
# Of the latents' variance: keeps what the samples do not tell apart from growing large.
_RIDGE = 1e-2
_SAMPLES, _SAMPLE_SIDE, _SHAPES = 8, 64, 24
_GREY = 0.6


class LatentColours:
    """A convolution over the latents, and where it is fitted.

    Args:
        kernel: [4 K, C, 3, 3], for 2 x 2 pixels of K channels each.
        bias: [4 K].
    """

    def __init__(self, kernel: torch.Tensor, bias: torch.Tensor) -> None:
        self._kernel = kernel
        self._bias = bias

    @classmethod
    def fit(cls, latents: torch.Tensor, pixels: torch.Tensor) -> Self:
        """The map with the least squared error, the same for the same samples.

        Args:
            latents: [B, C, H, W], normalised as the denoiser sees them.
            pixels: [B, K, H * scale, W * scale] from -1 to 1, what they decode to.

        Raises:
            TriptychError: a value is not finite.
        """
        if not (torch.isfinite(latents).all() and torch.isfinite(pixels).all()):
            raise TriptychError("previews: what the VAE makes of the samples is not finite")
        channels = latents.shape[1]
        known = functional.unfold(_padded(latents), _WINDOW).transpose(1, 2).flatten(0, 1).double()
        rows, columns = (PIXELS_PER_LATENT * side for side in latents.shape[2:])
        shrunk = functional.adaptive_avg_pool2d(pixels.clamp(-1, 1), (rows, columns))
        wanted = functional.pixel_unshuffle(shrunk, PIXELS_PER_LATENT).flatten(2)
        wanted = wanted.transpose(1, 2).flatten(0, 1).double()
        middle, grey = known.mean(dim=0), wanted.mean(dim=0)
        known, wanted = known - middle, wanted - grey
        squares = known.T @ known
        ridge = _RIDGE * squares.diagonal().mean() * torch.eye(len(squares), dtype=squares.dtype)
        solved = torch.linalg.solve(squares + ridge, known.T @ wanted).T
        kernel = solved.reshape(-1, channels, _WINDOW, _WINDOW)
        return cls(kernel.float(), (grey - solved @ middle).float())

    def picture(self, latents: torch.Tensor) -> Image.Image:
        """The picture, or those of several frames or layers, side by side.

        Args:
            latents: [1, C, H, W] or [1, C, frames, H, W].

        Raises:
            InvalidRequest: latents of another VAE.
            TriptychError: they are not finite.
        """
        channels = self._kernel.shape[1]
        if latents.ndim not in {4, 5} or latents.shape[1] != channels or not latents.numel():
            raise InvalidRequest.of(
                "latents",
                f"are {tuple(latents.shape)}; this VAE's have {channels} channels",
            )
        frames = latents.squeeze(0) if latents.ndim == 5 else latents.transpose(0, 1)
        padded = _padded(frames.transpose(0, 1).float())
        colours = functional.conv2d(padded, self._kernel, self._bias)
        pixels = functional.pixel_shuffle(colours, PIXELS_PER_LATENT).clamp(-1, 1)
        return picture_of(torch.cat(list(_opaque(pixels).unsqueeze(1)), dim=3))


def sample_pictures() -> torch.Tensor:
    """Discs and rectangles in all colours over one another [8, 4, 64, 64], from -1 to 1.

    The fourth channel is the alpha of layers. They are always the same. Such pictures ("dead
    leaves") have the edges, plains and sizes of natural ones.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    rows, columns = torch.meshgrid(
        torch.arange(_SAMPLE_SIDE), torch.arange(_SAMPLE_SIDE), indexing="ij"
    )
    pictures = torch.rand(_SAMPLES, 4, 1, 1, generator=generator)
    pictures = pictures.repeat(1, 1, _SAMPLE_SIDE, _SAMPLE_SIDE)
    for picture in pictures:
        for number in range(_SHAPES):
            row, column, size, *colour = torch.rand(7, generator=generator).tolist()
            down, right = rows - row * _SAMPLE_SIDE, columns - column * _SAMPLE_SIDE
            reach = size * _SAMPLE_SIDE / 3
            inside = (
                down**2 + right**2 < reach**2
                if number % 2
                else (down.abs() < 0.6 * reach) & (right.abs() < reach)
            )
            picture[:, inside] = torch.tensor(colour).unsqueeze(1)
    return 2 * pictures - 1


def _padded(latents: torch.Tensor) -> torch.Tensor:
    """Continued by their edges, one to every side."""
    return functional.pad(latents, (1, 1, 1, 1), mode="replicate")


def _opaque(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels [B, 3, H, W]; those with an alpha channel before a light grey."""
    colours, alpha = pixels[:, :3], (pixels[:, 3:] + 1) / 2
    return colours * alpha + _GREY * (1 - alpha) if pixels.shape[1] > 3 else colours
