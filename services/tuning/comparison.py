"""Compares caches: the time they save, and how like the uncached pictures are."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from services.loaded_models.cache_profile import Measurement
from services.tuning.painter import Painter
from services.tuning.subjects import Subjects
from triptych.domain.acceleration import NO_CACHE, Cache


@dataclass(frozen=True, slots=True)
class _Compared:
    """One prompt with a cache, against the same prompt without."""

    speedup: float
    reused: float
    psnr: float
    ssim: float


def compare(
    painter: Painter,
    subjects: Subjects,
    caches: Sequence[Cache],
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Measurement]:
    """Measures caches.

    Every cached run is timed against an uncached one right after it, so that both meet the same
    machine.

    Args:
        painter: the model.
        subjects: what is drawn.
        caches: effective options.
        on_progress: told how far it is.

    Returns:
        One measurement for each cache, in their order.
    """
    # The first forward of a process is slower than those that follow.
    painter.draw(subjects.parameters(0, NO_CACHE), subjects.images)
    compared: list[list[_Compared]] = [[] for _ in caches]
    for number in range(len(subjects.prompts)):
        plain = subjects.parameters(number, NO_CACHE)
        for cache, results in zip(caches, compared, strict=True):
            cached = painter.draw(subjects.parameters(number, cache), subjects.images)
            uncached = painter.draw(plain, subjects.images)
            results.append(
                _Compared(
                    speedup=uncached.seconds / cached.seconds,
                    reused=cached.reused,
                    psnr=psnr(uncached.pictures, cached.pictures),
                    ssim=ssim(uncached.pictures, cached.pictures),
                )
            )
        on_progress(f"{number + 1} of {len(subjects.prompts)} prompts drawn with every cache")
    return [_measurement(*each) for each in zip(caches, compared, strict=True)]


def _measurement(cache: Cache, results: Sequence[_Compared]) -> Measurement:
    speedups = [each.speedup for each in results]
    return Measurement(
        cache=cache,
        speedup=statistics.median(speedups),
        smallest_speedup=min(speedups),
        largest_speedup=max(speedups),
        reused_share=statistics.median(each.reused for each in results),
        min_psnr=_finite(min(each.psnr for each in results)),
        median_psnr=_finite(statistics.median(each.psnr for each in results)),
        min_ssim=min(each.ssim for each in results),
        median_ssim=statistics.median(each.ssim for each in results),
    )


def _finite(decibels: float) -> float | None:
    return None if math.isinf(decibels) else decibels


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
