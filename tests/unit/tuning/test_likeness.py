import numpy as np
import pytest

from services.tuning.comparison import psnr, ssim


def picture(seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 24, channels), dtype=np.uint8)


def test_psnr_is_that_of_all_pictures_together() -> None:
    wanted = [picture(1), picture(2)]
    drawn = [wanted[0], (wanted[1] // 2).astype(np.uint8)]
    error = np.mean((np.stack(wanted).astype(float) - np.stack(drawn).astype(float)) ** 2)
    assert psnr(wanted, drawn) == pytest.approx(10 * np.log10(255**2 / error))
    assert psnr(wanted, wanted) == float("inf")


def test_ssim_is_the_mean_over_pictures() -> None:
    wanted = [picture(1, 4), picture(2, 4)]
    assert ssim(wanted, wanted) == pytest.approx(1)
    each = [ssim([wanted[0]], [wanted[1]]), 1.0]
    assert ssim(wanted, [wanted[1], wanted[1]]) == pytest.approx(np.mean(each))
    assert each[0] < 0.2
