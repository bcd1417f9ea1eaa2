"""How like two drawings are, picture by picture."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Pictures = Sequence[npt.NDArray[np.uint8]]


def psnr(wanted: Pictures, drawn: Pictures) -> float:
    """Peak signal-to-noise ratio in dB over all pictures together; inf where they are equal."""
    # The library divides by the error.
    if all(np.array_equal(*pair) for pair in zip(wanted, drawn, strict=True)):
        return float("inf")
    return float(peak_signal_noise_ratio(np.stack(wanted), np.stack(drawn)))


def ssim(wanted: Pictures, drawn: Pictures) -> float:
    """Structural similarity, at most 1; the mean over pictures."""
    pairs = zip(wanted, drawn, strict=True)
    return float(np.mean([structural_similarity(*pair, channel_axis=-1) for pair in pairs]))
