import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar, get_args, get_type_hints

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from services.rpc.generation_request import attach_images, image_data, read_request
from tests.unit.domain.examples import PARAMETERS
from triptych.codec.tables import PARAMETERS as EFFECTIVE
from triptych.domain.acceleration import (
    NO_CACHE,
    CacheDit,
    MaskPolicy,
    ReusePolicy,
    TeaCache,
)
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.family_options import (
    GROUPS,
    BagelOptions,
    FluxOptions,
    LayeredOptions,
    LongCatOptions,
    VideoOptions,
)
from triptych.domain.generation import MAX_SEED, GenerationParameters, GenerationRequest
from triptych.domain.input_image import ImageDescription
from triptych.domain.model import MediaFormat
from triptych.domain.output_options import OutputOptions
from triptych.v1 import acceleration_pb2, generation_pb2, tensor_pb2

T = TypeVar("T")

Parameters = generation_pb2.GenerationParameters

uint32 = st.integers(0, 2**32 - 1)
wire_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)

# For every field that is honoured: a value, and where it must arrive.
HONOURED: dict[str, tuple[Any, str, Any]] = {
    "model": ("painter", "model", "painter"),
    "prompt": ("a cat", "prompt", "a cat"),
    "negative_prompt": ("", "negative_prompt", ""),
    "width": (0, "width", 0),
    "height": (64, "height", 64),
    "steps": (0, "steps", 0),
    "guidance_scale": (0.0, "guidance_scale", 0.0),
    "seed": (0, "seed", 0),
    "dtype": (tensor_pb2.ELEMENT_TYPE_BFLOAT16, "dtype", ElementType.BFLOAT16),
    "media_format": (generation_pb2.MEDIA_FORMAT_MP4, "media_format", MediaFormat.MP4),
    "preview_every_steps": (5, "preview_every_steps", 5),
    "video": (generation_pb2.VideoOptions(num_frames=5), "options", VideoOptions(num_frames=5)),
    "layered": (generation_pb2.LayeredOptions(layers=0), "options", LayeredOptions(layers=0)),
    "long_cat": (generation_pb2.LongCatOptions(), "options", LongCatOptions()),
    "bagel": (
        generation_pb2.BagelOptions(image_guidance_scale=1.5),
        "options",
        BagelOptions(image_guidance_scale=1.5),
    ),
    "flux": (
        generation_pb2.FluxOptions(true_guidance_scale=1.5),
        "options",
        FluxOptions(true_guidance_scale=1.5),
    ),
    "num_images": (3, "num_images", 3),
    "output": (generation_pb2.OutputOptions(quality=80), "output", OutputOptions(quality=80)),
}
IMAGE = ImageDescription(width=640, height=480, size_bytes=7, checksum_xxh3=2**64 - 1)
HONOURED_ACCELERATION = {
    "none": NO_CACHE,
    "tea_cache": TeaCache(),
    "cache_dit": CacheDit(),
}


def _fields(message: type[Message], *besides: str) -> list[str]:
    return [each.name for each in message.DESCRIPTOR.fields if each.name not in besides]


def _with(message: Any, field: str) -> Any:
    """Sets a field to something that is not its default."""
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    if descriptor.is_repeated:
        getattr(message, field).add()
    elif descriptor.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field).SetInParent()
    elif descriptor.type == FieldDescriptor.TYPE_STRING:
        setattr(message, field, "x")
    else:
        setattr(message, field, 1)
    return message


def _refused(convert: Callable[[], object]) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        convert()
    return [each.field for each in caught.value.violations]


def test_an_empty_request_leaves_everything_to_the_defaults() -> None:
    assert read_request(Parameters()) == GenerationRequest(prompt="")


@pytest.mark.parametrize("field", _fields(Parameters, "acceleration", "images"))
def test_every_field_is_honoured_or_refused_but_never_ignored(field: str) -> None:
    if field in HONOURED:
        value, name, expected = HONOURED[field]
        request = read_request(Parameters(**{field: value}))
        assert getattr(request, name) == expected
    else:
        message = _with(Parameters(), field)
        assert _refused(lambda: read_request(message)) == [field]


@pytest.mark.parametrize("field", _fields(acceleration_pb2.Acceleration))
def test_every_way_of_acceleration_is_passed_on_or_refused(field: str) -> None:
    message = Parameters()
    _with(message.acceleration, field)
    if field in HONOURED_ACCELERATION:
        request = read_request(message)
        assert request.cache == HONOURED_ACCELERATION[field]
    else:
        refused = _refused(lambda: read_request(message))
        assert refused == [f"acceleration.{field}"]


def test_images_are_what_their_headers_say_rather_than_what_the_client_does() -> None:
    forged = generation_pb2.ImageDescription(width=1, height=1)
    message = Parameters(images=[generation_pb2.InputImage(data=b"picture", description=forged)])
    assert read_request(message, [IMAGE]).images == (IMAGE,)


@pytest.mark.parametrize("field", ["dtype", "media_format"])
def test_an_enum_of_a_later_release_is_refused_by_its_field(field: str) -> None:
    message = Parameters()
    setattr(message, field, 99)
    assert _refused(lambda: read_request(message)) == [field]


_images = st.builds(
    ImageDescription,
    width=uint32,
    height=uint32,
    size_bytes=uint32,
    checksum_xxh3=st.integers(0, 2**64 - 1),
)
numbers = st.floats(allow_nan=False, allow_infinity=False)


def _options_of(kind: type[T]) -> st.SearchStrategy[T]:
    """Every option of a family, or not."""
    values = {int: uint32, float: numbers, bool: st.booleans()}
    options = {
        field.name: st.none() | values[get_args(get_type_hints(kind)[field.name])[0]]
        for field in fields(kind)  # type: ignore[arg-type]
        if field.name != "kind"
    }
    return st.builds(kind, **options)


_numbers = st.floats(allow_nan=False, allow_infinity=False)
_caches = (
    st.just(NO_CACHE)
    | st.builds(
        TeaCache,
        rel_l1_thresh=_numbers,
        coefficients=st.none() | st.tuples(*[_numbers] * 5),
        compute_last_step=st.booleans(),
    )
    | st.builds(
        CacheDit,
        fn_compute_blocks=uint32,
        bn_compute_blocks=uint32,
        max_warmup_steps=uint32,
        max_cached_steps=st.integers(-1, 99),
        max_continuous_cached_steps=st.integers(-1, 99),
        residual_diff_threshold=_numbers,
        taylorseer_order=st.none() | uint32,
    )
    | st.builds(
        CacheDit,
        scm_mask_policy=st.sampled_from(MaskPolicy),
        scm_policy=st.sampled_from(ReusePolicy),
    )
)
_parameters = st.builds(
    GenerationParameters,
    model=wire_text,
    prompt=wire_text,
    negative_prompt=st.none() | wire_text,
    width=uint32,
    height=uint32,
    steps=uint32,
    guidance_scale=numbers,
    seed=st.integers(0, MAX_SEED),
    dtype=st.sampled_from(ElementType),
    cache=_caches,
    media_format=st.sampled_from(MediaFormat),
    images=st.lists(_images, max_size=3).map(tuple),
    options=st.none() | st.one_of(map(_options_of, GROUPS.values())),
)


@given(_parameters)
def test_parameters_survive_the_wire(parameters: GenerationParameters) -> None:
    sent = Parameters.FromString(EFFECTIVE.write(parameters).SerializeToString())
    assert EFFECTIVE.read(sent) == parameters


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_every_family_has_its_counterpart(group: str) -> None:
    wire = Parameters.DESCRIPTOR.fields_by_name[group].message_type
    assert {field.name for field in fields(GROUPS[group])} - {"kind"} == set(wire.fields_by_name)
    assert all(field.has_presence for field in wire.fields)


def test_options_that_are_off_or_zero_are_not_taken_for_left_out() -> None:
    for options in (LongCatOptions(rewrite_prompt=False), LayeredOptions(layers=0)):
        message = EFFECTIVE.write(replace(PARAMETERS, options=options))
        assert EFFECTIVE.read(message).options == options


def _with_bytes(parameters: GenerationParameters, data: tuple[bytes, ...]) -> Parameters:
    message = EFFECTIVE.write(parameters)
    attach_images(message, data)
    return message


@given(st.lists(_images, max_size=3).map(tuple))
def test_the_bytes_of_images_travel_only_where_they_are_given(
    images: tuple[ImageDescription, ...],
) -> None:
    parameters = replace(PARAMETERS, images=images)
    data = tuple(bytes([number]) for number in range(len(images)))
    assert image_data(_with_bytes(parameters, data)) == data
    assert not any(each.data for each in EFFECTIVE.write(parameters).images)


def test_images_without_bytes_are_refused_where_they_are_needed() -> None:
    message = EFFECTIVE.write(replace(PARAMETERS, images=(IMAGE,)))
    assert _refused(lambda: image_data(message)) == ["images[0].data"]


@pytest.mark.parametrize("field", ["width", "height", "steps", "guidance_scale", "seed"])
def test_effective_values_must_all_be_there(field: str) -> None:
    message = EFFECTIVE.write(PARAMETERS)
    message.ClearField(field)
    assert _refused(lambda: EFFECTIVE.read(message)) == [field]


@pytest.mark.parametrize("field", ["dtype", "media_format"])
def test_effective_enums_must_be_specified(field: str) -> None:
    message = EFFECTIVE.write(PARAMETERS)
    message.ClearField(field)
    assert _refused(lambda: EFFECTIVE.read(message)) == [field]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_effective_numbers_must_be_finite(value: float) -> None:
    message = EFFECTIVE.write(PARAMETERS)
    message.guidance_scale = value
    message.acceleration.tea_cache.coefficients.extend([1.0, value])
    message.flux.true_guidance_scale = value
    with pytest.raises(InvalidRequest) as caught:
        EFFECTIVE.read(message)
    assert {each.field for each in caught.value.violations} == {
        "guidance_scale",
        "acceleration.tea_cache.coefficients",
        "flux.true_guidance_scale",
    }
