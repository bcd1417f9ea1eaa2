from triptych.v1 import acceleration_pb2 as _acceleration_pb2
from triptych.v1 import generation_pb2 as _generation_pb2
from triptych.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CacheMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_METHOD_UNSPECIFIED: _ClassVar[CacheMethod]
    CACHE_METHOD_NONE: _ClassVar[CacheMethod]
    CACHE_METHOD_TEA_CACHE: _ClassVar[CacheMethod]
    CACHE_METHOD_CACHE_DIT: _ClassVar[CacheMethod]

class CoefficientsSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COEFFICIENTS_SOURCE_UNSPECIFIED: _ClassVar[CoefficientsSource]
    COEFFICIENTS_SOURCE_PUBLISHED: _ClassVar[CoefficientsSource]
    COEFFICIENTS_SOURCE_CALIBRATED: _ClassVar[CoefficientsSource]

class ParallelMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PARALLEL_METHOD_UNSPECIFIED: _ClassVar[ParallelMethod]
    PARALLEL_METHOD_ULYSSES: _ClassVar[ParallelMethod]
    PARALLEL_METHOD_RING: _ClassVar[ParallelMethod]
    PARALLEL_METHOD_CFG: _ClassVar[ParallelMethod]

class OptionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPTION_KIND_UNSPECIFIED: _ClassVar[OptionKind]
    OPTION_KIND_INTEGER: _ClassVar[OptionKind]
    OPTION_KIND_NUMBER: _ClassVar[OptionKind]
    OPTION_KIND_SWITCH: _ClassVar[OptionKind]
CACHE_METHOD_UNSPECIFIED: CacheMethod
CACHE_METHOD_NONE: CacheMethod
CACHE_METHOD_TEA_CACHE: CacheMethod
CACHE_METHOD_CACHE_DIT: CacheMethod
COEFFICIENTS_SOURCE_UNSPECIFIED: CoefficientsSource
COEFFICIENTS_SOURCE_PUBLISHED: CoefficientsSource
COEFFICIENTS_SOURCE_CALIBRATED: CoefficientsSource
PARALLEL_METHOD_UNSPECIFIED: ParallelMethod
PARALLEL_METHOD_ULYSSES: ParallelMethod
PARALLEL_METHOD_RING: ParallelMethod
PARALLEL_METHOD_CFG: ParallelMethod
OPTION_KIND_UNSPECIFIED: OptionKind
OPTION_KIND_INTEGER: OptionKind
OPTION_KIND_NUMBER: OptionKind
OPTION_KIND_SWITCH: OptionKind

class Model(_message.Message):
    __slots__ = ("name", "family", "capabilities", "dtype")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    family: str
    capabilities: Capabilities
    dtype: _tensor_pb2.ElementType
    def __init__(self, name: _Optional[str] = ..., family: _Optional[str] = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ..., dtype: _Optional[_Union[_tensor_pb2.ElementType, str]] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("max_prompt_characters", "max_prompt_tokens", "size_multiple", "min_side", "max_side", "max_pixels", "min_steps", "max_steps", "supports_guidance", "min_guidance_scale", "max_guidance_scale", "max_images", "supports_previews", "media_formats", "cache_methods", "parallel_methods", "defaults", "supports_negative_prompt", "guidance_off_scale", "min_images", "image_fit", "options", "cacheable_blocks", "tea_cache_coefficients", "attention_heads", "guidance_branches", "tea_cache_coefficients_source", "supports_step_batching", "guidance_field")
    MAX_PROMPT_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SIZE_MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    MIN_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MIN_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    MIN_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    MAX_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FORMATS_FIELD_NUMBER: _ClassVar[int]
    CACHE_METHODS_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_METHODS_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_OFF_SCALE_FIELD_NUMBER: _ClassVar[int]
    MIN_IMAGES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CACHEABLE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TEA_CACHE_COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_HEADS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_BRANCHES_FIELD_NUMBER: _ClassVar[int]
    TEA_CACHE_COEFFICIENTS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_STEP_BATCHING_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_FIELD_NUMBER: _ClassVar[int]
    max_prompt_characters: int
    max_prompt_tokens: int
    size_multiple: int
    min_side: int
    max_side: int
    max_pixels: int
    min_steps: int
    max_steps: int
    supports_guidance: bool
    min_guidance_scale: float
    max_guidance_scale: float
    max_images: int
    supports_previews: bool
    media_formats: _containers.RepeatedScalarFieldContainer[_generation_pb2.MediaFormat]
    cache_methods: _containers.RepeatedScalarFieldContainer[CacheMethod]
    parallel_methods: _containers.RepeatedScalarFieldContainer[ParallelMethod]
    defaults: GenerationDefaults
    supports_negative_prompt: bool
    guidance_off_scale: float
    min_images: int
    image_fit: ImageFit
    options: _containers.RepeatedCompositeFieldContainer[OptionLimits]
    cacheable_blocks: _containers.RepeatedScalarFieldContainer[int]
    tea_cache_coefficients: _containers.RepeatedScalarFieldContainer[float]
    attention_heads: int
    guidance_branches: int
    tea_cache_coefficients_source: CoefficientsSource
    supports_step_batching: bool
    guidance_field: str
    def __init__(self, max_prompt_characters: _Optional[int] = ..., max_prompt_tokens: _Optional[int] = ..., size_multiple: _Optional[int] = ..., min_side: _Optional[int] = ..., max_side: _Optional[int] = ..., max_pixels: _Optional[int] = ..., min_steps: _Optional[int] = ..., max_steps: _Optional[int] = ..., supports_guidance: _Optional[bool] = ..., min_guidance_scale: _Optional[float] = ..., max_guidance_scale: _Optional[float] = ..., max_images: _Optional[int] = ..., supports_previews: _Optional[bool] = ..., media_formats: _Optional[_Iterable[_Union[_generation_pb2.MediaFormat, str]]] = ..., cache_methods: _Optional[_Iterable[_Union[CacheMethod, str]]] = ..., parallel_methods: _Optional[_Iterable[_Union[ParallelMethod, str]]] = ..., defaults: _Optional[_Union[GenerationDefaults, _Mapping]] = ..., supports_negative_prompt: _Optional[bool] = ..., guidance_off_scale: _Optional[float] = ..., min_images: _Optional[int] = ..., image_fit: _Optional[_Union[ImageFit, _Mapping]] = ..., options: _Optional[_Iterable[_Union[OptionLimits, _Mapping]]] = ..., cacheable_blocks: _Optional[_Iterable[int]] = ..., tea_cache_coefficients: _Optional[_Iterable[float]] = ..., attention_heads: _Optional[int] = ..., guidance_branches: _Optional[int] = ..., tea_cache_coefficients_source: _Optional[_Union[CoefficientsSource, str]] = ..., supports_step_batching: _Optional[bool] = ..., guidance_field: _Optional[str] = ...) -> None: ...

class ImageFit(_message.Message):
    __slots__ = ("area_pixels", "multiple", "rounds_up", "overridable", "shortest_edge", "longest_edge")
    AREA_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_UP_FIELD_NUMBER: _ClassVar[int]
    OVERRIDABLE_FIELD_NUMBER: _ClassVar[int]
    SHORTEST_EDGE_FIELD_NUMBER: _ClassVar[int]
    LONGEST_EDGE_FIELD_NUMBER: _ClassVar[int]
    area_pixels: int
    multiple: int
    rounds_up: bool
    overridable: bool
    shortest_edge: int
    longest_edge: int
    def __init__(self, area_pixels: _Optional[int] = ..., multiple: _Optional[int] = ..., rounds_up: _Optional[bool] = ..., overridable: _Optional[bool] = ..., shortest_edge: _Optional[int] = ..., longest_edge: _Optional[int] = ...) -> None: ...

class OptionLimits(_message.Message):
    __slots__ = ("field", "kind", "minimum", "maximum", "step", "default_value")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    field: str
    kind: OptionKind
    minimum: float
    maximum: float
    step: float
    default_value: float
    def __init__(self, field: _Optional[str] = ..., kind: _Optional[_Union[OptionKind, str]] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., step: _Optional[float] = ..., default_value: _Optional[float] = ...) -> None: ...

class GenerationDefaults(_message.Message):
    __slots__ = ("width", "height", "steps", "guidance_scale", "negative_prompt", "acceleration", "acceleration_min_steps")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    ACCELERATION_FIELD_NUMBER: _ClassVar[int]
    ACCELERATION_MIN_STEPS_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    steps: int
    guidance_scale: float
    negative_prompt: str
    acceleration: _acceleration_pb2.Acceleration
    acceleration_min_steps: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., negative_prompt: _Optional[str] = ..., acceleration: _Optional[_Union[_acceleration_pb2.Acceleration, _Mapping]] = ..., acceleration_min_steps: _Optional[int] = ...) -> None: ...
