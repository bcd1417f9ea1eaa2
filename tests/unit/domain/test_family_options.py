import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from triptych.domain.family_options import (
    BagelOptions,
    FamilyOptions,
    LayeredOptions,
    LongCatOptions,
    OptionKind,
    OptionLimits,
    VideoOptions,
    effective_options,
    option_violations,
    switch,
)

FRAMES = OptionLimits(
    name="video.num_frames",
    kind=OptionKind.INTEGER,
    minimum=1,
    maximum=241,
    step=4,
    default=81,
)
RATE = OptionLimits(
    name="video.frames_per_second",
    kind=OptionKind.INTEGER,
    minimum=1,
    maximum=60,
    step=1,
    default=16,
)
VIDEO = (FRAMES, RATE)
REWRITE = (switch("long_cat.rewrite_prompt", default=False),)


def number(field: str, default: float) -> OptionLimits:
    return OptionLimits(name=field, kind=OptionKind.NUMBER, minimum=0, maximum=1, default=default)


INTERVAL = (number("bagel.guidance_interval_start", 0.4), number("bagel.guidance_interval_end", 1))


def said(asked: FamilyOptions | None, limits: tuple[OptionLimits, ...]) -> dict[str, str]:
    return {each.field: each.description for each in option_violations(asked, limits)}


@pytest.mark.parametrize("frames", [1, 5, 81, 241])
def test_lengths_of_four_k_plus_one_are_allowed(frames: int) -> None:
    assert said(VideoOptions(num_frames=frames), VIDEO) == {}


@pytest.mark.parametrize("frames", [0, 2, 80, 82, 242, 245])
def test_other_lengths_are_refused_with_those_that_are_allowed(frames: int) -> None:
    assert said(VideoOptions(num_frames=frames), VIDEO) == {
        "video.num_frames": f"is {frames}; allowed are 1, 5 and so on to 241"
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_numbers_outside_their_range_are_refused(value: float) -> None:
    asked = BagelOptions(guidance_interval_start=value)
    assert said(asked, INTERVAL) == {
        "bagel.guidance_interval_start": f"is {value}; allowed are 0 to 1"
    }


@pytest.mark.parametrize(
    ("start", "end", "refused"), [(0.4, 1.0, False), (0.5, 0.5, True), (0.9, 0.1, True)]
)
def test_an_interval_must_not_be_empty(start: float, end: float, refused: bool) -> None:
    asked = BagelOptions(guidance_interval_start=start, guidance_interval_end=end)
    assert bool(said(asked, INTERVAL)) is refused


def test_an_interval_is_checked_against_the_default_of_its_other_end() -> None:
    assert said(BagelOptions(guidance_interval_end=0.3), INTERVAL) == {
        "bagel.guidance_interval_start": "is 0.4; it must be below guidance_interval_end,"
        " which is 0.3"
    }


def test_an_interval_of_values_that_are_not_allowed_is_not_compared() -> None:
    asked = BagelOptions(guidance_interval_start=2.0, guidance_interval_end=0.3)
    assert said(asked, INTERVAL) == {"bagel.guidance_interval_start": "is 2.0; allowed are 0 to 1"}


def test_everything_that_is_wrong_is_said_at_once() -> None:
    asked = VideoOptions(num_frames=2, frames_per_second=61, low_noise_guidance_scale=3.0)
    assert said(asked, VIDEO) == {
        "video.num_frames": "is 2; allowed are 1, 5 and so on to 241",
        "video.frames_per_second": "is 61; allowed are 1 to 60",
        "video.low_noise_guidance_scale": "is an option that this model does not have",
    }


def test_bounds_belong_to_what_is_allowed() -> None:
    for value in (0.0, 1.0):
        assert said(BagelOptions(guidance_interval_start=value), INTERVAL[:1]) == {}
    for rate in (1, 60):
        assert said(VideoOptions(frames_per_second=rate), VIDEO) == {}


def test_options_of_another_family_are_refused() -> None:
    assert said(LongCatOptions(), VIDEO) == {
        "long_cat": "are options of another model family; this model's are video"
    }
    assert said(VideoOptions(num_frames=5), ()) == {
        "video": "are options of another model family; this model has none"
    }


def test_an_option_that_this_model_lacks_is_refused() -> None:
    assert said(VideoOptions(low_noise_guidance_scale=3.0), VIDEO) == {
        "video.low_noise_guidance_scale": "is an option that this model does not have"
    }


def test_what_is_left_out_takes_the_defaults_in_their_own_types() -> None:
    options = effective_options(VideoOptions(num_frames=5), VIDEO)
    assert options == VideoOptions(num_frames=5, frames_per_second=16)
    assert effective_options(None, REWRITE) == LongCatOptions(rewrite_prompt=False)
    assert effective_options(None, ()) is None


@pytest.mark.parametrize(
    ("limits", "default"), [(FRAMES, 81), (INTERVAL[1], 1.0), (REWRITE[0], False)], ids=str
)
def test_a_default_has_the_type_of_its_option(limits: OptionLimits, default: float) -> None:
    assert type(limits.default_value) is type(default)
    assert limits.default_value == default


@pytest.mark.parametrize("asked", [{"num_frames": 5.5}, {"num_frames": "many"}])
def test_a_whole_number_is_never_rounded(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="num_frames"):
        TypeAdapter(VideoOptions).validate_python(asked)


@given(st.builds(VideoOptions, num_frames=st.none() | st.integers(0, 300)))
def test_effective_options_are_effective_already(asked: VideoOptions) -> None:
    if said(asked, VIDEO) == {}:
        once = effective_options(asked, VIDEO)
        assert said(once, VIDEO) == {}
        assert effective_options(once, VIDEO) == once


def test_a_switch_says_on_and_off() -> None:
    assert str(REWRITE[0]) == "on and off"
    assert REWRITE[0].default_value is False


@pytest.mark.parametrize("unknown", [{"layers": 2, "colour": 3}])
def test_unknown_options_are_not_options(unknown: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="colour"):
        TypeAdapter(LayeredOptions).validate_python(unknown)
