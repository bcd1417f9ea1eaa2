"""Editing models draw a megapixel whatever the request: tests draw a sixty-fourth of it.

Ours and the published pipelines scale their areas by the same power of two, so that the arithmetic
on sizes stays the same. One test draws at full size.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import pytest

from triptych.domain.image_fit import ImageFit

_SCALE = 64
_PIPELINES = (
    "qwenimage.pipeline_qwenimage_edit",
    "qwenimage.pipeline_qwenimage_edit_plus",
    "qwenimage.pipeline_qwenimage_layered",
    "longcat_image.pipeline_longcat_image_edit",
)


def shrink_areas(patch: pytest.MonkeyPatch) -> None:
    """Scales every area that a size is fitted to, until the patch is undone."""
    size = ImageFit.size

    def small_size(fit: ImageFit, width: int, height: int) -> tuple[int, int]:
        return size(replace(fit, area_pixels=fit.area_pixels // _SCALE), width, height)

    patch.setattr(ImageFit, "size", small_size)
    for name in _PIPELINES:
        module = import_module(f"diffusers.pipelines.{name}")
        patch.setattr(module, "calculate_dimensions", _small(module.calculate_dimensions))


def _small(calculate: Callable[[float, float], object]) -> Callable[[float, float], object]:
    return lambda area, ratio: calculate(area / _SCALE, ratio)
