import pytest
from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as longcat
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as qwen
from hypothesis import given
from hypothesis import strategies as st

from triptych.domain.image_fit import ImageFit

sides = st.integers(1, 10_000)
areas = st.sampled_from([384 * 384, 640 * 640, 1024 * 1024])


@given(areas, sides, sides)
def test_nearest_multiples_are_those_of_the_published_qwen_pipelines(
    area: int, width: int, height: int
) -> None:
    published = qwen.calculate_dimensions(area, width / height)[:2]
    assert ImageFit(area_pixels=area, multiple=32).size(width, height) == published


@given(areas, sides, sides)
def test_next_multiples_are_those_of_the_published_longcat_pipeline(
    area: int, width: int, height: int
) -> None:
    published = longcat.calculate_dimensions(area, width / height)
    assert ImageFit(area_pixels=area, multiple=16, rounds_up=True).size(width, height) == published


@pytest.mark.parametrize(("size", "fitted"), [((1, 1), (1024, 1024)), ((4000, 3000), (1184, 896))])
def test_proportions_are_kept_and_the_area_is_nearly_the_one_asked(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    assert ImageFit(area_pixels=1024 * 1024, multiple=32).size(*size) == fitted
