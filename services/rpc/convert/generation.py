"""Requests and parameters on the wire."""

import math
from collections.abc import Iterator, Sequence

from google.protobuf.message import Message

from services.rpc.convert.acceleration import cache_from_proto, cache_to_proto
from services.rpc.convert.enums import ELEMENT_TYPES, MEDIA_FORMATS
from services.rpc.convert.family_options import options_from_proto, write_options
from services.rpc.convert.images import images_from_proto, write_images
from triptych.domain.acceleration import NO_CACHE
from triptych.domain.errors import FieldViolation, InvalidRequest
from triptych.domain.generation import GenerationParameters, GenerationRequest
from triptych.domain.input_image import InputImage
from triptych.v1 import generation_pb2, job_pb2


def request_from_proto(
    message: generation_pb2.GenerationParameters,
    scheduling: job_pb2.SchedulingOptions,
    images: Sequence[InputImage] = (),
) -> GenerationRequest:
    """What the client asked.

    Args:
        message: what came.
        scheduling: what came with it.
        images: what the headers of the message's images say.

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
        cache=cache_from_proto(message.acceleration),
        media_format=MEDIA_FORMATS.optional_from_wire("media_format", message.media_format),
        images=tuple(images),
        preview_every_steps=message.preview_every_steps,
        options=options_from_proto(message),
    )


def _unsupported(
    message: generation_pb2.GenerationParameters, scheduling: job_pb2.SchedulingOptions
) -> Iterator[FieldViolation]:
    if message.acceleration.replica_class:
        yield FieldViolation("acceleration.replica_class", "must be empty: there is one class")
    for option, _ in scheduling.ListFields():
        yield FieldViolation(
            f"scheduling.{option.name}", "is not honoured; use the call's own deadline"
        )


def parameters_to_proto(
    parameters: GenerationParameters, image_data: Sequence[bytes] = ()
) -> generation_pb2.GenerationParameters:
    """Effective values.

    Args:
        parameters: the values.
        image_data: the encoded bytes of their images, where whoever reads them needs them.
    """
    message = generation_pb2.GenerationParameters(
        model=parameters.model,
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        width=parameters.width,
        height=parameters.height,
        steps=parameters.steps,
        guidance_scale=parameters.guidance_scale,
        seed=parameters.seed,
        dtype=ELEMENT_TYPES.to_wire(parameters.dtype),
        acceleration=cache_to_proto(parameters.cache),
        media_format=MEDIA_FORMATS.to_wire(parameters.media_format),
        preview_every_steps=parameters.preview_every_steps,
    )
    write_images(parameters.images, message, image_data)
    write_options(parameters.options, message)
    return message


def parameters_from_proto(message: generation_pb2.GenerationParameters) -> GenerationParameters:
    """Effective values, between services.

    Raises:
        InvalidRequest: a value is missing, or a number is not finite; only the negative prompt is
            optional here.
    """
    required = ("width", "height", "steps", "guidance_scale", "seed")
    if missing := [field for field in required if not message.HasField(field)]:
        raise InvalidRequest([FieldViolation(field, "is missing") for field in missing])
    if infinite := list(_not_finite(message)):
        raise InvalidRequest(infinite)
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
        cache=cache_from_proto(message.acceleration) or NO_CACHE,
        media_format=MEDIA_FORMATS.from_wire("media_format", message.media_format),
        images=images_from_proto(message),
        preview_every_steps=message.preview_every_steps,
        options=options_from_proto(message),
    )


def _not_finite(message: Message, path: str = "") -> Iterator[FieldViolation]:
    """What JSON, in which a denoiser tells its ranks, has no numbers for."""
    for field, value in message.ListFields():
        name = f"{path}{field.name}"
        for each in value if field.is_repeated else (value,):
            if isinstance(each, Message):
                yield from _not_finite(each, f"{name}.")
            elif isinstance(each, float) and not math.isfinite(each):
                yield FieldViolation(name, f"is {each}; allowed are finite numbers")
