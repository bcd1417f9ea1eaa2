"""Requests against models of every kind, through all checks and none of the work."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from services.gateway.received_images import receive_images
from services.gateway.uploads import Uploads
from services.loaded_models.stage_model import StageModel
from services.rpc.generation_request import read_request
from tests.fuzz.campaign import OK, Target, refusal
from tests.fuzz.messages import altered
from tests.fuzz.pictures import files
from tests.unit.domain.examples import CAPABILITIES, DEFAULTS, MODEL
from tests.unit.gateway.kept_artifacts import artifact_calls
from triptych.codec.tables import PARAMETERS
from triptych.domain.acceleration import CacheMethod, CacheSupport
from triptych.domain.errors import TriptychError
from triptych.domain.family_options import OptionKind, OptionLimits, switch
from triptych.domain.generation import resolve
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import LoadedModel, MediaFormat, ModelInfo
from triptych.v1 import acceleration_pb2, generation_pb2, generation_service_pb2

UNREADABLE = "not a message"
_FIT = ImageFit(area_pixels=128 * 128, multiple=16)
_EDGES = ImageFit(area_pixels=160 * 160, multiple=16, shortest_edge=32, longest_edge=192)
_LIMITS = replace(CAPABILITIES, max_pixels=256 * 256)
_CACHES = CacheSupport(
    methods=tuple(CacheMethod), blocks=(4,), tea_cache_coefficients=(1.0, 0.0, 0.0, 1.0, 0.0)
)


def _number(field: str, low: float, high: float, default: float, step: float = 0) -> OptionLimits:
    kind = OptionKind.INTEGER if step else OptionKind.NUMBER
    return OptionLimits(
        name=field, kind=kind, minimum=low, maximum=high, step=step, default=default
    )


def models() -> Sequence[ModelInfo]:
    """One for each way in which limits differ."""
    every: list[dict[str, Any]] = [
        {"cache_support": _CACHES, "supports_previews": True},
        {"min_images": 1, "max_images": 3, "image_fit": _FIT, "cache_support": _CACHES},
        {
            "max_images": 1,
            "image_fit": replace(_EDGES, overridable=False),
            "options": (
                _number("bagel.image_guidance_scale", 1, 10, 2),
                _number("bagel.guidance_interval_start", 0, 1, 0.4),
                _number("bagel.guidance_interval_end", 0, 1, 1),
            ),
        },
        {
            "min_images": 1,
            "max_images": 1,
            "image_fit": replace(_FIT, overridable=False),
            "options": (
                _number("layered.layers", 1, 8, 4, step=1),
                _number("layered.resolution", 96, 128, 128, step=32),
                switch("layered.caption_image", default=False),
            ),
            "media_formats": (MediaFormat.PNG_ARCHIVE,),
        },
        {
            "options": (
                _number("video.num_frames", 1, 81, 5, step=4),
                _number("video.frames_per_second", 1, 60, 16, step=1),
                _number("video.low_noise_guidance_scale", 0, 20, 3),
            ),
            "media_formats": (MediaFormat.MP4, MediaFormat.PNG_ARCHIVE),
        },
        {
            "options": (_number("flux.true_guidance_scale", 1, 20, 1),),
            "guidance_field": "flux.true_guidance_scale",
            "supports_guidance": False,
            "defaults": replace(DEFAULTS, guidance_scale=1.0),
        },
        {"options": (switch("long_cat.rewrite_prompt", default=True),)},
    ]
    return [replace(MODEL, capabilities=replace(_LIMITS, **each)) for each in every]


_SIDES = st.sampled_from([0, 16, 32, 48, 64, 128, 256, 257, 2**32 - 1])
SUGGESTED = {
    "width": _SIDES,
    "height": _SIDES,
    "size_bytes": st.sampled_from([0, 1, 2**40]),
    "steps": st.sampled_from([0, 1, 2, 8, 50, 51]),
    "guidance_scale": st.sampled_from([1.0, 4.0, 20.0, 0.99]),
    "model": st.just("painter"),
    "dtype": st.sampled_from([0, 1, 2]),
    "data": st.sampled_from(files()),
    "num_frames": st.sampled_from([1, 5, 6, 81, 85]),
    "layers": st.sampled_from([1, 4, 8, 9]),
    "resolution": st.sampled_from([96, 100, 128]),
    "prompt": st.sampled_from(["", "a cat"]),
    "fn_compute_blocks": st.sampled_from([0, 1, 4, 5]),
    "upload_id": st.sampled_from(["", "😀" * 3000]),
}


@contextmanager
def request_targets() -> Iterator[list[Target]]:
    """What the gateway does before any work, and what each stage does."""
    uploads = Uploads(artifact_calls(), 600, 60)
    served = models()
    runner = asyncio.Runner()

    def ask(given: tuple[ModelInfo, bytes]) -> str:
        model, data = given
        try:
            message = generation_service_pb2.GenerateRequest.FromString(data)
        except DecodeError:
            return UNREADABLE
        try:
            received = runner.run(receive_images(message.parameters, uploads, "a"))
            described = [each.described for each in received]
            asked = read_request(message.parameters, described)
            effective = resolve(asked, model, draw_seed=lambda: 7)
        except TriptychError as error:
            return refusal(error)
        # What the gateway takes in, the stages take as it is.
        passed_on = PARAMETERS.read(PARAMETERS.write(effective))
        assert passed_on == effective
        _held(model).check(passed_on)
        assert effective.pixel_steps > 0
        return OK

    def check(given: tuple[ModelInfo, bytes]) -> str:
        model, data = given
        try:
            message = generation_pb2.GenerationParameters.FromString(data)
        except DecodeError:
            return UNREADABLE
        try:
            _held(model).check(PARAMETERS.read(message))
        except TriptychError as error:
            return refusal(error)
        return OK

    with runner:
        yield [
            Target("requests, checked by the gateway", _altered(served, _asked), ask, 12_000),
            Target("requests, checked by a stage", _altered(served, _effective), check, 8000),
        ]


def _altered(
    served: Sequence[ModelInfo], sound: Callable[[ModelInfo], Message]
) -> st.SearchStrategy[tuple[ModelInfo, bytes]]:
    each = [st.tuples(st.just(model), altered(sound(model), SUGGESTED)) for model in served]
    return st.one_of(each)


def _held(model: ModelInfo) -> StageModel[None]:
    return StageModel(LoadedModel(model=model, components=()), None)


def _asked(model: ModelInfo) -> generation_service_pb2.GenerateRequest:
    parameters = generation_pb2.GenerationParameters(
        prompt="a red circle",
        negative_prompt="blurry",
        guidance_scale=4.0,
        steps=8,
        seed=7,
        acceleration=acceleration_pb2.Acceleration(
            cache_dit=acceleration_pb2.CacheDit(
                taylorseer=acceleration_pb2.TaylorSeer(order=1),
                scm=acceleration_pb2.StepsComputationMask(mask_policy=2, policy=1),
            )
        ),
    )
    if model.capabilities.options:
        getattr(parameters, model.capabilities.options[0].group).SetInParent()
        parameters.ClearField("negative_prompt")
    if CacheMethod.CACHE_DIT not in model.capabilities.cache_support.methods:
        parameters.ClearField("acceleration")
    if not model.capabilities.supports_guidance:
        parameters.ClearField("guidance_scale")
    for _ in range(model.capabilities.min_images):
        parameters.images.add(data=files()[0])
    return generation_service_pb2.GenerateRequest(parameters=parameters)


def _effective(model: ModelInfo) -> generation_pb2.GenerationParameters:
    message = _asked(model)
    uploads = Uploads(artifact_calls(), 600, 60)
    received = asyncio.run(receive_images(message.parameters, uploads, "a"))
    described = [each.described for each in received]
    asked = read_request(message.parameters, described)
    return PARAMETERS.write(resolve(asked, model, draw_seed=lambda: 7))
