"""From the messages of triptych.v1 to the client's own values."""

from typing import Protocol

from google.protobuf.duration_pb2 import Duration

from triptych.cache_wire import cache_from_proto
from triptych.conditioning_reuse import ConditioningReuse
from triptych.family_options import GROUPS, FamilyOptions
from triptych.generation import GenerationParameters, StageTiming
from triptych.input_image import ImageDescription, UploadedImage
from triptych.model_info import ImageFit, ModelDefaults, ModelInfo, ModelLimits, OptionLimits
from triptych.parallel import ParallelDegrees
from triptych.status import Failure
from triptych.v1 import (
    acceleration_pb2,
    capabilities_pb2,
    generation_pb2,
    generation_service_pb2,
    job_pb2,
    tensor_pb2,
)


class _Enum(Protocol):
    def Name(self, number: int) -> str: ...  # noqa: N802 - protobuf's own name


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
        cache=cache_from_proto(message.acceleration),
        media_format=media_format_from_proto(message.media_format),
        images=tuple(_description(each.description) for each in message.images),
        options=_options(message),
        preview_every_steps=message.preview_every_steps,
    )


def uploaded_image_from_proto(message: generation_service_pb2.UploadImageResponse) -> UploadedImage:
    """What requests name an upload by."""
    return UploadedImage(message.upload_id, message.width, message.height)


def timing_from_proto(message: generation_pb2.StageTiming) -> StageTiming:
    """Durations become seconds."""
    return StageTiming(
        stage=stage_from_proto(message.stage),
        task=task_from_proto(message.task),
        queue_seconds=seconds_from_proto(message.queue_duration),
        run_seconds=seconds_from_proto(message.run_duration),
        transfer_seconds=seconds_from_proto(message.transfer_duration),
        total_seconds=seconds_from_proto(message.total_duration),
        writing_seconds=seconds_from_proto(message.writing_duration),
    )


def reuse_from_proto(message: generation_pb2.ConditioningReuse) -> ConditioningReuse:
    """What of one kind was not encoded."""
    return ConditioningReuse(
        part=_name(generation_pb2.ConditioningPart, message.part, "CONDITIONING_PART_"),
        looked_up=message.looked_up,
        reused=message.reused,
    )


def degrees_from_proto(message: acceleration_pb2.ParallelDegrees) -> ParallelDegrees:
    """How steps were spread; an older cluster that does not say has one rank."""
    return ParallelDegrees(
        ulysses=message.ulysses_degree or 1,
        ring=message.ring_degree or 1,
        cfg=message.cfg_degree or 1,
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
            guidance_field=limits.guidance_field,
            guidance_off_scale=limits.guidance_off_scale,
            media_formats=tuple(media_format_from_proto(each) for each in limits.media_formats),
            cache_methods=tuple(
                _name(capabilities_pb2.CacheMethod, each, "CACHE_METHOD_")
                for each in limits.cache_methods
            ),
            tea_cache_coefficients=tuple(limits.tea_cache_coefficients),
            tea_cache_coefficients_source=_name(
                capabilities_pb2.CoefficientsSource,
                limits.tea_cache_coefficients_source,
                "COEFFICIENTS_SOURCE_",
            )
            if limits.tea_cache_coefficients_source
            else "",
            parallel_methods=tuple(
                _name(capabilities_pb2.ParallelMethod, each, "PARALLEL_METHOD_")
                for each in limits.parallel_methods
            ),
            attention_heads=limits.attention_heads,
            guidance_branches=limits.guidance_branches,
            supports_previews=limits.supports_previews,
            supports_step_batching=limits.supports_step_batching,
            min_images=limits.min_images,
            max_images=limits.max_images,
            image_fit=_image_fit(limits.image_fit) if limits.HasField("image_fit") else None,
            options=tuple(map(_option_limits, limits.options)),
        ),
        defaults=ModelDefaults(
            width=defaults.width,
            height=defaults.height,
            steps=defaults.steps,
            guidance_scale=defaults.guidance_scale,
            negative_prompt=defaults.negative_prompt,
            cache=cache_from_proto(defaults.acceleration),
            cache_min_steps=defaults.acceleration_min_steps,
        ),
    )


def failure_from_proto(message: job_pb2.JobFailed) -> Failure:
    """A failure that came as an event rather than as a status."""
    return Failure(message.status, message.reason, message.message)


def stage_from_proto(number: int) -> str:
    """For example "encoder"."""
    return _name(generation_pb2.Stage, number, "STAGE_")


def task_from_proto(number: int) -> str:
    """For example "encode_images"."""
    return _name(generation_pb2.StageTask, number, "STAGE_TASK_")


def media_format_from_proto(number: int) -> str:
    """For example "png"."""
    return _name(generation_pb2.MediaFormat, number, "MEDIA_FORMAT_")


def seconds_from_proto(duration: Duration) -> float:
    """Not by way of timedelta, which drops nanoseconds."""
    return duration.seconds + duration.nanos / 1e9


def _description(message: generation_pb2.ImageDescription) -> ImageDescription:
    return ImageDescription(
        width=message.width,
        height=message.height,
        size_bytes=message.size_bytes,
        checksum_xxh3=message.checksum_xxh3,
    )


def _options(message: generation_pb2.GenerationParameters) -> FamilyOptions | None:
    group = message.WhichOneof("family_options")
    if group is None:
        return None
    given = getattr(message, group).ListFields()
    return GROUPS[group](**{field.name: value for field, value in given})


def _image_fit(message: capabilities_pb2.ImageFit) -> ImageFit:
    return ImageFit(
        area_pixels=message.area_pixels,
        multiple=message.multiple,
        rounds_up=message.rounds_up,
        overridable=message.overridable,
        shortest_edge=message.shortest_edge,
        longest_edge=message.longest_edge,
    )


def _option_limits(message: capabilities_pb2.OptionLimits) -> OptionLimits:
    return OptionLimits(
        name=message.field,
        kind=_name(capabilities_pb2.OptionKind, message.kind, "OPTION_KIND_"),
        minimum=message.minimum,
        maximum=message.maximum,
        step=message.step,
        default=message.default_value,
    )


def _name(enum: _Enum, number: int, prefix: str) -> str:
    try:
        return enum.Name(number).removeprefix(prefix).lower()
    except ValueError:
        # A newer cluster may use values that this client has no name for.
        return f"unknown_{number}"
