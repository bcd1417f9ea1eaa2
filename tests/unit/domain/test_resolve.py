import math
from dataclasses import fields, replace
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.domain.examples import CAPABILITIES, MODEL
from triptych.domain.acceleration import (
    NO_CACHE,
    Cache,
    CacheDit,
    CacheMethod,
    CacheSupport,
    TeaCache,
)
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.family_options import FluxOptions, OptionKind, OptionLimits, VideoOptions
from triptych.domain.generation import MAX_SEED, GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import MediaFormat, ModelInfo
from triptych.domain.output_options import OutputOptions


def _no_seed() -> int:
    raise AssertionError("a seed was drawn though the request has one")


def _resolved(model: ModelInfo = MODEL, **asked: Any) -> GenerationParameters:
    request = GenerationRequest(**({"prompt": "a cat", "seed": 1} | asked))
    return resolve(request, model, _no_seed)


def _violations(model: ModelInfo = MODEL, **asked: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        _resolved(model, **asked)
    return {each.field: each.description for each in caught.value.violations}


def _model(**limits: object) -> ModelInfo:
    return replace(MODEL, capabilities=replace(CAPABILITIES, **limits))


def test_what_is_left_out_takes_the_models_defaults() -> None:
    drawn = iter([42])
    parameters = resolve(GenerationRequest(prompt="a cat"), MODEL, lambda: next(drawn))
    assert parameters == GenerationParameters(
        model="painter",
        prompt="a cat",
        negative_prompt="blurry",
        width=128,
        height=64,
        steps=20,
        guidance_scale=4.0,
        seed=42,
        dtype=ElementType.FLOAT32,
        cache=NO_CACHE,
        media_format=MediaFormat.PNG,
        output=OutputOptions(compression_level=3),
    )


def test_what_is_asked_wins_over_the_defaults() -> None:
    parameters = _resolved(
        width=32,
        height=256,
        steps=2,
        guidance_scale=1.5,
        seed=0,
        negative_prompt="",
        dtype="float32",
    )
    assert (parameters.width, parameters.height, parameters.steps) == (32, 256, 2)
    assert (parameters.guidance_scale, parameters.seed) == (1.5, 0)
    assert parameters.negative_prompt == ""
    assert parameters.guided


def test_guidance_of_exactly_one_is_off() -> None:
    parameters = _resolved(guidance_scale=1.0)
    assert parameters.negative_prompt is None
    assert not parameters.guided


def test_guidance_just_above_one_is_on() -> None:
    assert _resolved(guidance_scale=math.nextafter(1, 2)).negative_prompt == "blurry"


def test_guidance_may_follow_an_option_instead_of_the_guidance_scale() -> None:
    scale = OptionLimits(
        name="flux.true_guidance_scale", kind=OptionKind.NUMBER, minimum=1, maximum=5, default=1
    )
    model = _model(options=(scale,), guidance_field=scale.name)
    off, on = (FluxOptions(true_guidance_scale=each) for each in (1, 2))
    assert not _resolved(model, guidance_scale=20.0).guided
    assert not _resolved(model, guidance_scale=20.0, options=off).guided
    assert _resolved(model, guidance_scale=1.0, options=on).negative_prompt == "blurry"
    assert _resolved(model, negative_prompt="grey", options=on).negative_prompt == "grey"
    needed = "has no effect unless flux.true_guidance_scale is above 1; leave it out"
    assert _violations(model, negative_prompt="grey", guidance_scale=20.0, options=off) == {
        "negative_prompt": needed
    }
    foreign = VideoOptions(num_frames=5)
    assert "video" in _violations(model, negative_prompt="grey", options=foreign)


@pytest.mark.parametrize(
    ("field", "asked", "said"),
    [
        ("prompt", {"prompt": ""}, ["empty"]),
        ("prompt", {"prompt": " \n\t"}, ["empty"]),
        ("prompt", {"prompt": "x" * 101}, ["101", "100"]),
        ("prompt", {"prompt": "a\x00b"}, ["control characters"]),
        ("prompt", {"prompt": "\x1b[31m"}, ["control characters"]),
        ("negative_prompt", {"negative_prompt": "x" * 101}, ["101", "100"]),
        ("negative_prompt", {"negative_prompt": "a\x07"}, ["control characters"]),
        ("negative_prompt", {"negative_prompt": "x", "guidance_scale": 1.0}, ["guidance_scale"]),
        ("width", {"width": 0}, ["0", "16", "32", "256"]),
        ("width", {"width": 40}, ["40", "16", "32", "256"]),
        ("width", {"width": 16}, ["16", "32"]),
        ("height", {"height": 272}, ["272", "256"]),
        ("height", {"height": 2**32 - 1}, [str(2**32 - 1), "256"]),
        ("steps", {"steps": 1}, ["1", "2 to 50"]),
        ("steps", {"steps": 0}, ["0", "2 to 50"]),
        ("steps", {"steps": 51}, ["51", "2 to 50"]),
        ("guidance_scale", {"guidance_scale": math.nan}, ["nan", "1 to 20"]),
        ("guidance_scale", {"guidance_scale": math.inf}, ["inf", "1 to 20"]),
        ("guidance_scale", {"guidance_scale": -math.inf}, ["-inf", "1 to 20"]),
        ("guidance_scale", {"guidance_scale": -1.0}, ["-1", "1 to 20"]),
        ("guidance_scale", {"guidance_scale": 0.5}, ["0.5", "1 to 20"]),
        ("guidance_scale", {"guidance_scale": 20.5}, ["20.5", "1 to 20"]),
        ("seed", {"seed": MAX_SEED + 1}, [str(MAX_SEED + 1), str(MAX_SEED)]),
        ("seed", {"seed": -1}, ["-1", str(MAX_SEED)]),
        ("dtype", {"dtype": "bfloat16"}, ["bfloat16", "float32"]),
        ("acceleration.cache", {"cache": TeaCache()}, ["tea_cache", "none"]),
        ("media_format", {"media_format": "mp4"}, ["mp4", "png"]),
    ],
)
def test_a_violation_names_its_field_the_value_and_what_is_allowed(
    field: str, asked: dict[str, Any], said: list[str]
) -> None:
    violations = _violations(**asked)
    assert list(violations) == [field]
    for each in said:
        assert each in violations[field]


@pytest.mark.parametrize(
    "asked",
    [
        {"width": 32},
        {"width": 256, "height": 64},
        {"steps": 2},
        {"steps": 50},
        {"guidance_scale": 20.0},
        {"seed": MAX_SEED},
        {"prompt": "x" * 100},
        {"prompt": "two\nlines\tand a tab\r"},
        {"cache": NO_CACHE},
    ],
)
def test_the_bounds_themselves_are_allowed(asked: dict[str, Any]) -> None:
    parameters = _resolved(**asked)
    assert {name: getattr(parameters, name) for name in asked} == asked


def test_too_many_pixels_are_refused_when_only_one_side_is_given() -> None:
    # 256 is a legal width; times the default height it is not a legal picture.
    model = _model(max_pixels=128 * 128 - 1)
    violations = _violations(model, width=256)
    assert violations == {"width": "times height is 16384 pixels; allowed are at most 16383"}


def test_guidance_is_refused_by_a_model_without_it() -> None:
    without = _model(
        supports_guidance=False,
        defaults=replace(CAPABILITIES.defaults, guidance_scale=1.0),
    )
    assert list(_violations(without, guidance_scale=2.0)) == ["guidance_scale"]
    assert _resolved(without, guidance_scale=1.0).negative_prompt is None


def test_all_violations_are_reported_together() -> None:
    violations = _violations(prompt="", width=33, height=1, steps=1, seed=-1, dtype="bool")
    assert set(violations) == {"prompt", "width", "height", "steps", "seed", "dtype"}


def test_the_message_holds_every_violation_but_not_the_prompt() -> None:
    with pytest.raises(InvalidRequest) as caught:
        _resolved(prompt="my secret\x00", steps=1)
    assert "prompt: " in str(caught.value)
    assert "steps: is 1" in str(caught.value)
    assert "secret" not in str(caught.value)


_requests = st.builds(
    GenerationRequest,
    prompt=st.text(max_size=120),
    negative_prompt=st.none() | st.text(max_size=120),
    width=st.none() | st.integers(0, 2**32 - 1) | st.integers(0, 20).map(lambda n: 16 * n),
    height=st.none() | st.integers(0, 2**32 - 1) | st.integers(0, 20).map(lambda n: 16 * n),
    steps=st.none() | st.integers(0, 2**32 - 1) | st.integers(0, 60),
    guidance_scale=st.none() | st.floats() | st.floats(0.5, 25),
    seed=st.none() | st.integers(0, 2**64 - 1),
    dtype=st.none() | st.sampled_from(ElementType),
    cache=st.none() | st.sampled_from([NO_CACHE, TeaCache(), CacheDit()]),
    media_format=st.none() | st.sampled_from(MediaFormat),
)


@given(_requests)
def test_any_request_resolves_within_the_limits_or_is_refused_by_name(
    request: GenerationRequest,
) -> None:
    known = {field.name for field in fields(GenerationRequest)} | {"acceleration.cache"}
    try:
        parameters = resolve(request, MODEL, lambda: MAX_SEED)
    except InvalidRequest as error:
        named = {each.field for each in error.violations}
        assert named
        assert named <= known - {"cache"}
        return
    limits = CAPABILITIES
    for side in (parameters.width, parameters.height):
        assert limits.min_side <= side <= limits.max_side
        assert side % limits.size_multiple == 0
    assert parameters.width * parameters.height <= limits.max_pixels
    assert limits.min_steps <= parameters.steps <= limits.max_steps
    assert 1 <= parameters.guidance_scale <= limits.max_guidance_scale
    assert parameters.guided == (parameters.guidance_scale > 1)
    assert 0 <= parameters.seed <= MAX_SEED
    assert 0 < len(parameters.prompt) <= limits.max_prompt_characters
    assert parameters.dtype is MODEL.dtype
    # Nothing that was asked is changed in silence.
    for name in {field.name for field in fields(request)} - {"model"}:
        asked = getattr(request, name)
        assert asked is None or getattr(parameters, name) == asked


def _with_default(cache: Cache, min_steps: int = 0, **support: Any) -> ModelInfo:
    defaults = replace(CAPABILITIES.defaults, cache=cache, cache_min_steps=min_steps)
    known = {"methods": tuple(CacheMethod), "blocks": (12,), **support}
    return _model(cache_support=CacheSupport(**known), defaults=defaults)


def test_a_request_that_names_no_cache_gets_the_models_default() -> None:
    model = _with_default(TeaCache(), tea_cache_coefficients=(1, 2, 3, 4, 5))
    assert _resolved(model).cache == TeaCache(coefficients=(1, 2, 3, 4, 5))
    assert _resolved(model, cache=NO_CACHE).cache == NO_CACHE
    assert _resolved(model, cache=CacheDit()).cache == CacheDit()


@pytest.mark.parametrize(
    ("cache", "min_steps", "steps"),
    [
        (CacheDit(), 20, 19),
        (CacheDit(taylorseer_order=1), 0, 4),
        (CacheDit(scm_mask_policy="medium"), 0, 5),
        (CacheDit(fn_compute_blocks=13), 0, 50),
    ],
)
def test_a_default_that_so_many_steps_cannot_have_is_left_out(
    cache: Cache, min_steps: int, steps: int
) -> None:
    model = _with_default(cache, min_steps)
    assert _resolved(model, steps=steps).cache == NO_CACHE


def test_a_default_applies_from_its_own_number_of_steps_on() -> None:
    model = _with_default(CacheDit(), 20)
    for steps in (20, 50):
        assert _resolved(model, steps=steps).cache == CacheDit()


@pytest.mark.parametrize("every", [0, 1, 20])
def test_previews_come_as_often_as_asked(every: int) -> None:
    model = _model(supports_previews=True)
    assert _resolved(model, preview_every_steps=every).preview_every_steps == every


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"preview_every_steps": 21}, "is 21; allowed are 0 (none) to 20, the request's steps"),
        (
            {"preview_every_steps": 3, "steps": 2},
            "is 3; allowed are 0 (none) to 2, the request's steps",
        ),
        ({"preview_every_steps": -1}, "is -1; allowed are 0 (none) to 20, the request's steps"),
    ],
)
def test_previews_that_could_never_come_are_refused(asked: dict[str, int], problem: str) -> None:
    violations = _violations(_model(supports_previews=True), **asked)
    assert violations == {"preview_every_steps": problem}


def test_a_model_without_previews_refuses_them() -> None:
    expected = {"preview_every_steps": "is 1; this model has no previews"}
    assert _violations(_model(supports_previews=False), preview_every_steps=1) == expected


class Text(str):
    """Tells when somebody goes through its characters."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("nobody needs the characters one by one")


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_the_characters_of_a_text_that_is_too_long_are_not_looked_at(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve(
            GenerationRequest(**{"prompt": "x", field: Text("\x00" * 101)}),
            MODEL,
            lambda: 1,
        )
    assert [each.description for each in caught.value.violations] == [
        "has 101 characters; allowed are at most 100"
    ]


@pytest.mark.parametrize(
    ("asked", "violations"),
    [
        ({"num_images": 0}, {"num_images": "is 0; allowed are 1 to 16"}),
        ({"num_images": 17}, {"num_images": "is 17; allowed are 1 to 16"}),
        (
            {"num_images": 2, "seed": MAX_SEED},
            {"seed": f"would be {MAX_SEED + 1} for the last image; allowed are 0 to {MAX_SEED}"},
        ),
        (
            {"output": OutputOptions(quality=90)},
            {"output.quality": "is 90; png has no such option"},
        ),
        (
            {"output": OutputOptions(compression_level=3), "media_format": "jpeg"},
            {"output.compression_level": "is 3; jpeg has no such option"},
        ),
        (
            {"output": OutputOptions(quality=101), "media_format": "webp"},
            {"output.quality": "is 101; allowed are 1 to 100"},
        ),
    ],
)
def test_results_and_their_compression_have_bounds(
    asked: dict[str, Any], violations: dict[str, str]
) -> None:
    assert _violations(**asked) == violations


def test_a_video_has_no_compression_of_pictures() -> None:
    film = _model(media_formats=(MediaFormat.MP4,))
    refused = _violations(film, output=OutputOptions(compression_level=1))
    assert refused == {"output.compression_level": "is 1; mp4 has no such option"}
    assert _resolved(film).output is None


def test_what_a_request_takes_is_counted_for_every_result() -> None:
    assert _resolved(num_images=3).pixel_steps == 3 * _resolved().pixel_steps
    assert _resolved(num_images=3, seed=5).alone(2) == _resolved(seed=7)


def test_the_compression_is_filled_in() -> None:
    assert _resolved().output == OutputOptions(compression_level=3)
    assert _resolved(media_format="jpeg").output == OutputOptions(quality=90)
