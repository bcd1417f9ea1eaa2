from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.domain.examples import CAPABILITIES, MODEL
from triptych.domain.errors import InvalidRequest
from triptych.domain.family_options import (
    LayeredOptions,
    OptionKind,
    OptionLimits,
    VideoOptions,
    switch,
)
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.image_fit import ImageFit
from triptych.domain.input_image import ImageDescription
from triptych.domain.model import ModelInfo

FIT = ImageFit(area_pixels=128 * 128, multiple=16)
LAYERED = (
    OptionLimits(
        name="layered.resolution",
        kind=OptionKind.INTEGER,
        minimum=64,
        maximum=128,
        step=64,
        default=64,
    ),
    switch("layered.caption_image", default=False),
)


def image(width: int = 64, height: int = 64) -> ImageDescription:
    return ImageDescription(width=width, height=height, size_bytes=1, checksum_xxh3=0)


def editing(**limits: object) -> ModelInfo:
    told = {"min_images": 1, "max_images": 2, "image_fit": FIT, "max_pixels": 256 * 256, **limits}
    return replace(MODEL, capabilities=replace(CAPABILITIES, **told))


def resolved(model: ModelInfo, *images: ImageDescription, **asked: Any) -> GenerationParameters:
    request = GenerationRequest(**({"prompt": "a cat", "images": images} | asked))
    return resolve(request, model, lambda: 1)


def said(model: ModelInfo, *images: ImageDescription, **asked: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolved(model, *images, **asked)
    return {each.field: each.description for each in caught.value.violations}


def test_a_model_that_takes_no_pictures_refuses_them() -> None:
    assert said(MODEL, image()) == {"images": "are 1; this model takes none"}


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_or_too_many_pictures_are_refused(count: int) -> None:
    assert said(editing(), *[image()] * count) == {
        "images": f"are {count}; this model takes 1 to 2"
    }


def test_a_model_that_needs_exactly_one_says_so() -> None:
    assert said(editing(max_images=1)) == {"images": "are 0; this model takes 1"}


@pytest.mark.parametrize("size", [(1700, 100), (100, 1700)])
def test_pictures_that_are_far_longer_than_wide_are_refused(size: tuple[int, int]) -> None:
    assert said(editing(), image(), image(*size)) == {
        "images[1]": f"is {size[0]} x {size[1]} pixels; allowed is at most 16 times as long as wide"
    }


@pytest.mark.parametrize("size", [(1600, 100), (100, 1600)])
def test_pictures_up_to_sixteen_times_as_long_as_wide_are_taken(size: tuple[int, int]) -> None:
    parameters = resolved(editing(max_side=1024), image(*size))
    assert sorted((parameters.width, parameters.height)) == [32, 512]


def test_everything_that_is_wrong_with_pictures_is_said_at_once() -> None:
    wrong = said(editing(max_images=1), image(1700, 100), image(), prompt="", steps=1, width=7)
    assert wrong.keys() == {"prompt", "images", "images[0]", "width", "steps"}


def test_the_size_follows_from_the_last_picture() -> None:
    parameters = resolved(editing(), image(100, 400), image(400, 100))
    assert (parameters.width, parameters.height) == (256, 64)
    assert parameters.images == (image(100, 400), image(400, 100))


def test_a_request_may_ask_for_another_size_where_the_model_allows_it() -> None:
    parameters = resolved(editing(), image(400, 100), width=64)
    assert (parameters.width, parameters.height) == (64, 64)


def test_a_model_whose_size_follows_from_no_picture_draws_its_own() -> None:
    parameters = resolved(editing(image_fit=None), image(400, 100))
    assert (parameters.width, parameters.height) == (128, 64)


def test_without_a_picture_the_size_is_the_models_own() -> None:
    parameters = resolved(editing(min_images=0))
    assert (parameters.width, parameters.height) == (128, 64)
    fixed = editing(min_images=0, image_fit=replace(FIT, overridable=False))
    assert resolved(fixed, width=64).width == 64


def test_both_sides_of_a_size_that_is_fixed_are_refused_but_for_the_very_same() -> None:
    fixed = editing(image_fit=replace(FIT, overridable=False))
    assert said(fixed, image(), width=64, height=32).keys() == {"width", "height"}
    assert resolved(fixed, image(), width=128, height=128).width == 128


def test_a_size_that_is_fixed_by_the_picture_cannot_be_asked_for() -> None:
    fixed = editing(image_fit=replace(FIT, overridable=False))
    assert said(fixed, image(), width=64) == {
        "width": "is 64; it follows from the input image: 128"
    }


def test_a_fitted_size_must_be_within_the_models_limits() -> None:
    assert said(editing(max_pixels=1000), image()) == {
        "width": "times height is 16384 pixels; allowed are at most 1000"
    }
    assert said(editing(), image(600, 100)) == {
        "width": "would be 320, by the input image; allowed are 32 to 256"
    }
    assert said(editing(min_side=64, max_side=1024), image(100, 600)) == {
        "width": "would be 48, by the input image; allowed are 64 to 1024"
    }


def test_a_layered_models_resolution_decides_its_size() -> None:
    model = editing(options=LAYERED)
    assert resolved(model, image()).width == 64
    assert resolved(model, image(), options=LayeredOptions(resolution=128)).width == 128


def test_options_of_another_family_are_refused_along_with_everything_else() -> None:
    model = editing(options=LAYERED)
    assert said(model, image(), options=VideoOptions(num_frames=5), steps=1).keys() == {
        "video",
        "steps",
    }


def test_a_prompt_may_be_empty_only_if_the_picture_is_captioned() -> None:
    model, captioned = editing(options=LAYERED), LayeredOptions(caption_image=True)
    assert resolved(model, image(), prompt="", options=captioned).prompt == ""
    assert said(model, image(), prompt="") == {"prompt": "is empty; say what to draw"}
    assert said(model, image(), options=captioned) == {
        "layered.caption_image": "is on; leave the prompt empty, or it off"
    }


def test_a_caption_takes_the_place_of_the_prompt_alone() -> None:
    captioned = LayeredOptions(caption_image=True)
    wrong = said(
        editing(options=LAYERED), image(), prompt="", options=captioned, negative_prompt="\x00"
    )
    assert wrong.keys() == {"negative_prompt"}


_sides = st.integers(1, 4000)


@given(st.lists(st.builds(image, _sides, _sides), min_size=1, max_size=2), st.booleans())
def test_whatever_is_taken_is_within_the_limits_and_taken_again(
    pictures: list[ImageDescription], overridable: bool
) -> None:
    fit = replace(FIT, overridable=overridable)
    model = editing(options=LAYERED, image_fit=fit, max_side=512)
    limits = model.capabilities
    try:
        once = resolved(model, *pictures)
    except InvalidRequest as error:
        wrong = {each.field for each in error.violations}
        assert wrong <= {"images[0]", "images[1]", "width", "height"}
        return
    assert once.width * once.height <= limits.max_pixels
    for side in (once.width, once.height):
        assert side % limits.size_multiple == 0
        assert limits.min_side <= side <= limits.max_side
    again = once.request
    assert resolve(again, model, lambda: 1) == once


def test_resolving_effective_values_again_changes_nothing() -> None:
    fixed = replace(FIT, overridable=False)
    for model in (editing(), editing(options=LAYERED), editing(options=LAYERED, image_fit=fixed)):
        once = resolved(model, image(300, 100))
        again = once.request
        assert resolve(again, model, lambda: 1) == once


@pytest.mark.parametrize("overridable", [True, False])
@pytest.mark.parametrize("size", [(0, 64), (64, 0), (0, 0)])
def test_pictures_without_a_pixel_are_refused(size: tuple[int, int], overridable: bool) -> None:
    model = editing(image_fit=replace(FIT, overridable=overridable))
    assert said(model, image(*size), width=64) == {"images[0]": "has no pixels"}
