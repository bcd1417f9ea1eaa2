"""Between the messages of triptych.v1 and the client's own values."""

from typing import Final, Protocol

from google.protobuf.duration_pb2 import Duration

from triptych.errors import InvalidRequestError
from triptych.generation import GenerationParameters, StageTiming
from triptych.model_info import ModelDefaults, ModelInfo, ModelLimits
from triptych.request import DType, GenerationRequest
from triptych.status import Failure, FieldViolation
from triptych.v1 import capabilities_pb2, generation_pb2, job_pb2, tensor_pb2

_UINT32_MAX = 2**32 - 1
_LARGEST: Final = {
    "width": _UINT32_MAX,
    "height": _UINT32_MAX,
    "steps": _UINT32_MAX,
    "seed": 2**63 - 1,
}
_ELEMENT_TYPES: Final[dict[DType, tensor_pb2.ElementType]] = {
    "float32": tensor_pb2.ELEMENT_TYPE_FLOAT32,
    "bfloat16": tensor_pb2.ELEMENT_TYPE_BFLOAT16,
    "float16": tensor_pb2.ELEMENT_TYPE_FLOAT16,
}
_PLAIN_FIELDS: Final = (
    "prompt",
    "model",
    "negative_prompt",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "seed",
)


class _Enum(Protocol):
    def Name(self, number: int) -> str: ...  # noqa: N802 - protobuf's own name


def request_to_proto(request: GenerationRequest) -> generation_pb2.GenerationParameters:
    """Fills in what the caller gave, and nothing else: limits and defaults are the cluster's.

    Raises:
        InvalidRequestError: a value that the wire cannot carry.
        TypeError: a value of the wrong type.
    """
    message = generation_pb2.GenerationParameters()
    violations = []
    for field in _PLAIN_FIELDS:
        value = getattr(request, field)
        try:
            if value is not None:
                setattr(message, field, value)
        except ValueError as error:
            violations.append(FieldViolation(field, _unsendable(field, value, error)))
    if request.dtype is not None:
        if request.dtype in _ELEMENT_TYPES:
            message.dtype = _ELEMENT_TYPES[request.dtype]
        else:
            allowed = ", ".join(_ELEMENT_TYPES)
            violations.append(FieldViolation("dtype", f"is {request.dtype}; allowed are {allowed}"))
    if violations:
        raise _invalid(violations)
    return message


def parameters_from_proto(message: generation_pb2.GenerationParameters) -> GenerationParameters:
    """Effective values, as JobAccepted and GenerationResult carry them."""
    return GenerationParameters(
        model=message.model,
        prompt=message.prompt,
        negative_prompt=message.negative_prompt if message.HasField("negative_prompt") else None,
        width=message.width,
        height=message.height,
        steps=message.steps,
        guidance_scale=message.guidance_scale,
        seed=message.seed,
        dtype=_name(tensor_pb2.ElementType, message.dtype, "ELEMENT_TYPE_"),
        media_format=media_format_from_proto(message.media_format),
    )


def timing_from_proto(message: generation_pb2.StageTiming) -> StageTiming:
    """Durations become seconds."""
    return StageTiming(
        stage=stage_from_proto(message.stage),
        queue_seconds=seconds_from_proto(message.queue_duration),
        run_seconds=seconds_from_proto(message.run_duration),
        transfer_seconds=seconds_from_proto(message.transfer_duration),
        total_seconds=seconds_from_proto(message.total_duration),
    )


def model_from_proto(message: capabilities_pb2.Model) -> ModelInfo:
    """A served model with its limits and defaults."""
    limits, defaults = message.capabilities, message.capabilities.defaults
    return ModelInfo(
        name=message.name,
        family=message.family,
        dtype=_name(tensor_pb2.ElementType, message.dtype, "ELEMENT_TYPE_"),
        limits=ModelLimits(
            max_prompt_characters=limits.max_prompt_characters,
            max_prompt_tokens=limits.max_prompt_tokens,
            size_multiple=limits.size_multiple,
            min_side=limits.min_side,
            max_side=limits.max_side,
            max_pixels=limits.max_pixels,
            min_steps=limits.min_steps,
            max_steps=limits.max_steps,
            supports_guidance=limits.supports_guidance,
            min_guidance_scale=limits.min_guidance_scale,
            max_guidance_scale=limits.max_guidance_scale,
            supports_negative_prompt=limits.supports_negative_prompt,
            guidance_off_scale=limits.guidance_off_scale,
            media_formats=tuple(media_format_from_proto(each) for each in limits.media_formats),
        ),
        defaults=ModelDefaults(
            width=defaults.width,
            height=defaults.height,
            steps=defaults.steps,
            guidance_scale=defaults.guidance_scale,
            negative_prompt=defaults.negative_prompt,
        ),
    )


def failure_from_proto(message: job_pb2.JobFailed) -> Failure:
    """A failure that came as an event rather than as a status."""
    return Failure(message.status, message.reason, message.message)


def stage_from_proto(number: int) -> str:
    """For example "encoder"."""
    return _name(generation_pb2.Stage, number, "STAGE_")


def media_format_from_proto(number: int) -> str:
    """For example "png"."""
    return _name(generation_pb2.MediaFormat, number, "MEDIA_FORMAT_")


def seconds_from_proto(duration: Duration) -> float:
    """Not by way of timedelta, which drops nanoseconds."""
    return duration.seconds + duration.nanos / 1e9


def _name(enum: _Enum, number: int, prefix: str) -> str:
    try:
        return enum.Name(number).removeprefix(prefix).lower()
    except ValueError:
        # A newer cluster may use values that this client has no name for.
        return f"unknown_{number}"


def _unsendable(field: str, value: object, error: ValueError) -> str:
    if field in _LARGEST:
        return f"is {value}; allowed are 0 to {_LARGEST[field]}"
    return f"is {value!r}; allowed is text in Unicode ({error})"


def _invalid(violations: list[FieldViolation]) -> InvalidRequestError:
    message = "; ".join(f"{each.field}: {each.description}" for each in violations)
    failure = Failure("INVALID_ARGUMENT", "INVALID_REQUEST", message, tuple(violations))
    return InvalidRequestError(failure)
