import math
from typing import Any

import pytest

from services.domain.family_options import (
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
    field="video.num_frames",
    kind=OptionKind.INTEGER,
    minimum=1,
    maximum=241,
    step=4,
    default=81,
)
RATE = OptionLimits(
    field="video.frames_per_second",
    kind=OptionKind.INTEGER,
    minimum=1,
    maximum=60,
    step=1,
    default=16,
)
VIDEO = (FRAMES, RATE)
REWRITE = (switch("long_cat.rewrite_prompt", default=False),)


def number(field: str, default: float) -> OptionLimits:
    return OptionLimits(field=field, kind=OptionKind.NUMBER, minimum=0, maximum=1, default=default)


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


def test_a_switch_says_on_and_off() -> None:
    assert str(REWRITE[0]) == "on and off"
    assert REWRITE[0].default_value is False


@pytest.mark.parametrize("unknown", [{"layers": 2, "colour": 3}])
def test_unknown_options_are_not_options(unknown: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="colour"):
        LayeredOptions.model_validate(unknown)
