"""Requests and parameters on the wire."""

from collections.abc import Iterator

from services.domain.acceleration import CacheMethod
from services.domain.errors import FieldViolation, InvalidRequest
from services.domain.generation import GenerationParameters, GenerationRequest
from services.rpc.convert.enums import ELEMENT_TYPES, MEDIA_FORMATS
from triptych.v1 import acceleration_pb2, generation_pb2, job_pb2

_CACHE_METHODS = {
    "none": CacheMethod.NONE,
    "tea_cache": CacheMethod.TEA_CACHE,
    "cache_dit": CacheMethod.CACHE_DIT,
}
_CACHE_FIELDS = {method: field for field, method in _CACHE_METHODS.items()}


def request_from_proto(
    message: generation_pb2.GenerationParameters, scheduling: job_pb2.SchedulingOptions
) -> GenerationRequest:
    """What the client asked.

    Raises:
        InvalidRequest: an enum is unknown, or a field is set that no served model honours.
    """
    if violations := list(_unsupported(message, scheduling)):
        raise InvalidRequest(violations)
    return GenerationRequest(
        model=message.model,
        prompt=message.prompt,
        negative_prompt=message.negative_prompt if message.HasField("negative_prompt") else None,
        width=message.width if message.HasField("width") else None,
        height=message.height if message.HasField("height") else None,
        steps=message.steps if message.HasField("steps") else None,
        guidance_scale=message.guidance_scale if message.HasField("guidance_scale") else None,
        seed=message.seed if message.HasField("seed") else None,
        dtype=ELEMENT_TYPES.optional_from_wire("dtype", message.dtype),
        cache=_cache_from_proto(message.acceleration),
        media_format=MEDIA_FORMATS.optional_from_wire("media_format", message.media_format),
    )


def _unsupported(
    message: generation_pb2.GenerationParameters, scheduling: job_pb2.SchedulingOptions
) -> Iterator[FieldViolation]:
    if message.images:
        yield FieldViolation(
            "images", f"has {len(message.images)} entries; no served model takes pictures"
        )
    if message.preview_every_steps:
        yield FieldViolation(
            "preview_every_steps", f"is {message.preview_every_steps}; allowed is only 0 (none)"
        )
    if family := message.WhichOneof("family_options"):
        yield FieldViolation(family, "belongs to a model family that is not served")
    if message.acceleration.replica_class:
        yield FieldViolation("acceleration.replica_class", "must be empty: there is one class")
    for option, _ in scheduling.ListFields():
        yield FieldViolation(
            f"scheduling.{option.name}", "is not honoured; use the call's own deadline"
        )


def _cache_from_proto(message: acceleration_pb2.Acceleration) -> CacheMethod | None:
    method = message.WhichOneof("cache")
    return None if method is None else _CACHE_METHODS[method]


def _cache_to_proto(method: CacheMethod) -> acceleration_pb2.Acceleration:
    message = acceleration_pb2.Acceleration()
    getattr(message, _CACHE_FIELDS[method]).SetInParent()
    return message


def parameters_to_proto(parameters: GenerationParameters) -> generation_pb2.GenerationParameters:
    """Effective values."""
    return generation_pb2.GenerationParameters(
        model=parameters.model,
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        width=parameters.width,
        height=parameters.height,
        steps=parameters.steps,
        guidance_scale=parameters.guidance_scale,
        seed=parameters.seed,
        dtype=ELEMENT_TYPES.to_wire(parameters.dtype),
        acceleration=_cache_to_proto(parameters.cache),
        media_format=MEDIA_FORMATS.to_wire(parameters.media_format),
    )


def parameters_from_proto(message: generation_pb2.GenerationParameters) -> GenerationParameters:
    """Effective values, between services.

    Raises:
        InvalidRequest: a value is missing; only the negative prompt is optional here.
    """
    required = ("width", "height", "steps", "guidance_scale", "seed")
    if missing := [field for field in required if not message.HasField(field)]:
        raise InvalidRequest([FieldViolation(field, "is missing") for field in missing])
    return GenerationParameters(
        model=message.model,
        prompt=message.prompt,
        negative_prompt=message.negative_prompt if message.HasField("negative_prompt") else None,
        width=message.width,
        height=message.height,
        steps=message.steps,
        guidance_scale=message.guidance_scale,
        seed=message.seed,
        dtype=ELEMENT_TYPES.from_wire("dtype", message.dtype),
        cache=_cache_from_proto(message.acceleration) or CacheMethod.NONE,
        media_format=MEDIA_FORMATS.from_wire("media_format", message.media_format),
    )
