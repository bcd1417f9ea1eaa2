"""Models and replicas on the wire."""

from typing import Any

from services.domain.stages import Capacity, RankGroupInfo
from services.rpc.convert.acceleration import cache_from_proto, cache_to_proto
from services.rpc.convert.durations import duration_to_proto, seconds_from_proto
from services.rpc.convert.enums import (
    CACHE_METHODS,
    COEFFICIENTS_SOURCES,
    ELEMENT_TYPES,
    MEDIA_FORMATS,
    OPTION_KINDS,
    PARALLEL_METHODS,
    STAGES,
)
from triptych.domain.acceleration import NO_CACHE, CacheSupport, CoefficientsSource
from triptych.domain.family_options import OptionLimits
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import (
    Capabilities,
    Component,
    GenerationDefaults,
    LoadedModel,
    Model,
)
from triptych.domain.parallel import ParallelDegrees, ParallelSupport
from triptych.v1 import capabilities_pb2, stage_service_pb2

_SAME_NAMED = (
    "max_prompt_characters",
    "max_prompt_tokens",
    "size_multiple",
    "min_side",
    "max_side",
    "max_pixels",
    "min_steps",
    "max_steps",
    "supports_guidance",
    "min_guidance_scale",
    "max_guidance_scale",
    "supports_negative_prompt",
    "guidance_field",
    "guidance_off_scale",
    "min_images",
    "max_images",
    "supports_previews",
    "supports_step_batching",
)


def model_to_proto(model: Model) -> capabilities_pb2.Model:
    """A model with its capabilities."""
    capabilities = model.capabilities
    return capabilities_pb2.Model(
        name=model.name,
        family=model.family,
        dtype=ELEMENT_TYPES.to_wire(model.dtype),
        capabilities=capabilities_pb2.Capabilities(
            **capabilities.model_dump(include=set(_SAME_NAMED)),
            media_formats=map(MEDIA_FORMATS.to_wire, capabilities.media_formats),
            **_cache_support_to_proto(capabilities.cache_support),
            parallel_methods=map(PARALLEL_METHODS.to_wire, capabilities.parallel_support.methods),
            attention_heads=capabilities.parallel_support.attention_heads,
            guidance_branches=capabilities.parallel_support.guidance_branches,
            defaults=_defaults_to_proto(capabilities.defaults),
            image_fit=_image_fit_to_proto(capabilities.image_fit),
            options=map(_option_to_proto, capabilities.options),
        ),
    )


def model_from_proto(message: capabilities_pb2.Model) -> Model:
    """A model with its capabilities."""
    limits, defaults = message.capabilities, message.capabilities.defaults
    return Model(
        name=message.name,
        family=message.family,
        dtype=ELEMENT_TYPES.from_wire("dtype", message.dtype),
        capabilities=Capabilities(
            **{name: getattr(limits, name) for name in _SAME_NAMED},
            media_formats=tuple(
                MEDIA_FORMATS.from_wire("media_formats", each) for each in limits.media_formats
            ),
            cache_support=_cache_support_from_proto(limits),
            parallel_support=ParallelSupport(
                methods=tuple(
                    PARALLEL_METHODS.from_wire("parallel_methods", each)
                    for each in limits.parallel_methods
                ),
                attention_heads=limits.attention_heads,
                guidance_branches=limits.guidance_branches,
            ),
            defaults=GenerationDefaults(
                width=defaults.width,
                height=defaults.height,
                steps=defaults.steps,
                guidance_scale=defaults.guidance_scale,
                negative_prompt=defaults.negative_prompt,
                cache=cache_from_proto(defaults.acceleration) or NO_CACHE,
                cache_min_steps=defaults.acceleration_min_steps,
            ),
            image_fit=_image_fit_from_proto(limits.image_fit)
            if limits.HasField("image_fit")
            else None,
            options=tuple(map(_option_from_proto, limits.options)),
        ),
    )


def _defaults_to_proto(defaults: GenerationDefaults) -> capabilities_pb2.GenerationDefaults:
    return capabilities_pb2.GenerationDefaults(
        **defaults.model_dump(exclude={"cache", "cache_min_steps"}),
        acceleration=cache_to_proto(defaults.cache),
        acceleration_min_steps=defaults.cache_min_steps,
    )


def _cache_support_to_proto(support: CacheSupport) -> dict[str, Any]:
    known = support.tea_cache_coefficients is not None
    source = COEFFICIENTS_SOURCES.to_wire(support.coefficients_source) if known else None
    return {
        "cache_methods": map(CACHE_METHODS.to_wire, support.methods),
        "cacheable_blocks": support.blocks,
        "tea_cache_coefficients": support.tea_cache_coefficients,
        "tea_cache_coefficients_source": source,
    }


def _cache_support_from_proto(limits: capabilities_pb2.Capabilities) -> CacheSupport:
    source = COEFFICIENTS_SOURCES.optional_from_wire(
        "tea_cache_coefficients_source", limits.tea_cache_coefficients_source
    )
    return CacheSupport(
        methods=tuple(
            CACHE_METHODS.from_wire("cache_methods", each) for each in limits.cache_methods
        ),
        blocks=tuple(limits.cacheable_blocks),
        tea_cache_coefficients=tuple(limits.tea_cache_coefficients) or None,
        coefficients_source=source or CoefficientsSource.PUBLISHED,
    )


def _image_fit_to_proto(fit: ImageFit | None) -> capabilities_pb2.ImageFit | None:
    if fit is None:
        return None
    return capabilities_pb2.ImageFit(
        area_pixels=fit.area,
        multiple=fit.multiple,
        rounds_up=fit.rounds_up,
        overridable=fit.overridable,
        shortest_edge=fit.shortest_edge,
        longest_edge=fit.longest_edge,
    )


def _image_fit_from_proto(message: capabilities_pb2.ImageFit) -> ImageFit:
    return ImageFit(
        area=message.area_pixels,
        multiple=message.multiple,
        rounds_up=message.rounds_up,
        overridable=message.overridable,
        shortest_edge=message.shortest_edge,
        longest_edge=message.longest_edge,
    )


def _option_to_proto(limits: OptionLimits) -> capabilities_pb2.OptionLimits:
    return capabilities_pb2.OptionLimits(
        field=limits.field,
        kind=OPTION_KINDS.to_wire(limits.kind),
        minimum=limits.minimum,
        maximum=limits.maximum,
        step=limits.step,
        default_value=limits.default,
    )


def _option_from_proto(message: capabilities_pb2.OptionLimits) -> OptionLimits:
    return OptionLimits(
        field=message.field,
        kind=OPTION_KINDS.from_wire("options.kind", message.kind),
        minimum=message.minimum,
        maximum=message.maximum,
        step=message.step,
        default=message.default_value,
    )


def capacity_to_proto(capacity: Capacity) -> stage_service_pb2.GetCapacityResponse:
    """What a replica holds and how busy it is."""
    ranks = capacity.rank_group
    return stage_service_pb2.GetCapacityResponse(
        stage=STAGES.to_wire(capacity.stage),
        instance_id=capacity.instance_id,
        models=[
            stage_service_pb2.LoadedModel(
                model=model_to_proto(loaded.model),
                components=[
                    stage_service_pb2.Component(
                        name=part.name,
                        parameter_count=part.parameter_count,
                        size_bytes=part.size_bytes,
                        dtype=ELEMENT_TYPES.to_wire(part.dtype),
                    )
                    for part in loaded.components
                ],
            )
            for loaded in capacity.models
        ],
        tensor_store=capacity.tensor_store,
        running_requests=capacity.running_requests,
        queued_requests=capacity.queued_requests,
        max_queued_requests=capacity.max_queued_requests,
        draining=capacity.draining,
        rank_group=None
        if ranks is None
        else stage_service_pb2.RankGroup(
            ranks=ranks.ranks,
            generation=ranks.generation,
            completed_steps=ranks.completed_steps,
            ulysses_degree=ranks.degrees.ulysses,
            ring_degree=ranks.degrees.ring,
            cfg_degree=ranks.degrees.cfg,
            held_bytes=ranks.held_bytes,
            reserved_bytes=ranks.reserved_bytes,
            max_resident_bytes=ranks.max_resident_bytes,
            backlog=duration_to_proto(ranks.backlog_seconds),
        ),
    )


def capacity_from_proto(message: stage_service_pb2.GetCapacityResponse) -> Capacity:
    """What a replica holds and how busy it is."""
    return Capacity(
        stage=STAGES.from_wire("stage", message.stage),
        instance_id=message.instance_id,
        models=tuple(
            LoadedModel(
                model=model_from_proto(loaded.model),
                components=tuple(
                    Component(
                        name=part.name,
                        parameter_count=part.parameter_count,
                        size_bytes=part.size_bytes,
                        dtype=ELEMENT_TYPES.from_wire("dtype", part.dtype),
                    )
                    for part in loaded.components
                ),
            )
            for loaded in message.models
        ),
        tensor_store=message.tensor_store,
        running_requests=message.running_requests,
        queued_requests=message.queued_requests,
        max_queued_requests=message.max_queued_requests,
        draining=message.draining,
        rank_group=_rank_group(message.rank_group) if message.HasField("rank_group") else None,
    )


def _rank_group(message: stage_service_pb2.RankGroup) -> RankGroupInfo:
    limited = message.HasField("max_resident_bytes")
    return RankGroupInfo(
        message.ranks,
        message.generation,
        message.completed_steps,
        ParallelDegrees(
            ulysses=message.ulysses_degree, ring=message.ring_degree, cfg=message.cfg_degree
        ),
        held_bytes=message.held_bytes,
        reserved_bytes=message.reserved_bytes,
        max_resident_bytes=message.max_resident_bytes if limited else None,
        backlog_seconds=seconds_from_proto(message.backlog),
    )
