import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from triptych.v1 import acceleration_pb2 as _acceleration_pb2
from triptych.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MediaFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEDIA_FORMAT_UNSPECIFIED: _ClassVar[MediaFormat]
    MEDIA_FORMAT_PNG: _ClassVar[MediaFormat]
    MEDIA_FORMAT_MP4: _ClassVar[MediaFormat]
    MEDIA_FORMAT_PNG_ARCHIVE: _ClassVar[MediaFormat]
    MEDIA_FORMAT_JPEG: _ClassVar[MediaFormat]
    MEDIA_FORMAT_WEBP: _ClassVar[MediaFormat]

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_ENCODER: _ClassVar[Stage]
    STAGE_DENOISER: _ClassVar[Stage]
    STAGE_VAE: _ClassVar[Stage]

class StageTask(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_TASK_UNSPECIFIED: _ClassVar[StageTask]
    STAGE_TASK_ENCODE_PROMPT: _ClassVar[StageTask]
    STAGE_TASK_ENCODE_IMAGES: _ClassVar[StageTask]
    STAGE_TASK_DENOISE: _ClassVar[StageTask]
    STAGE_TASK_DECODE: _ClassVar[StageTask]

class ConditioningPart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONDITIONING_PART_UNSPECIFIED: _ClassVar[ConditioningPart]
    CONDITIONING_PART_PROMPT: _ClassVar[ConditioningPart]
    CONDITIONING_PART_NEGATIVE_PROMPT: _ClassVar[ConditioningPart]
    CONDITIONING_PART_IMAGE: _ClassVar[ConditioningPart]
MEDIA_FORMAT_UNSPECIFIED: MediaFormat
MEDIA_FORMAT_PNG: MediaFormat
MEDIA_FORMAT_MP4: MediaFormat
MEDIA_FORMAT_PNG_ARCHIVE: MediaFormat
MEDIA_FORMAT_JPEG: MediaFormat
MEDIA_FORMAT_WEBP: MediaFormat
STAGE_UNSPECIFIED: Stage
STAGE_ENCODER: Stage
STAGE_DENOISER: Stage
STAGE_VAE: Stage
STAGE_TASK_UNSPECIFIED: StageTask
STAGE_TASK_ENCODE_PROMPT: StageTask
STAGE_TASK_ENCODE_IMAGES: StageTask
STAGE_TASK_DENOISE: StageTask
STAGE_TASK_DECODE: StageTask
CONDITIONING_PART_UNSPECIFIED: ConditioningPart
CONDITIONING_PART_PROMPT: ConditioningPart
CONDITIONING_PART_NEGATIVE_PROMPT: ConditioningPart
CONDITIONING_PART_IMAGE: ConditioningPart

class GenerationParameters(_message.Message):
    __slots__ = ("model", "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "seed", "dtype", "acceleration", "media_format", "images", "preview_every_steps", "video", "layered", "long_cat", "bagel", "flux", "output", "num_images")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ACCELERATION_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FORMAT_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    LAYERED_FIELD_NUMBER: _ClassVar[int]
    LONG_CAT_FIELD_NUMBER: _ClassVar[int]
    BAGEL_FIELD_NUMBER: _ClassVar[int]
    FLUX_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    NUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    dtype: _tensor_pb2.ElementType
    acceleration: _acceleration_pb2.Acceleration
    media_format: MediaFormat
    images: _containers.RepeatedCompositeFieldContainer[InputImage]
    preview_every_steps: int
    video: VideoOptions
    layered: LayeredOptions
    long_cat: LongCatOptions
    bagel: BagelOptions
    flux: FluxOptions
    output: OutputOptions
    num_images: int
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., seed: _Optional[int] = ..., dtype: _Optional[_Union[_tensor_pb2.ElementType, str]] = ..., acceleration: _Optional[_Union[_acceleration_pb2.Acceleration, _Mapping]] = ..., media_format: _Optional[_Union[MediaFormat, str]] = ..., images: _Optional[_Iterable[_Union[InputImage, _Mapping]]] = ..., preview_every_steps: _Optional[int] = ..., video: _Optional[_Union[VideoOptions, _Mapping]] = ..., layered: _Optional[_Union[LayeredOptions, _Mapping]] = ..., long_cat: _Optional[_Union[LongCatOptions, _Mapping]] = ..., bagel: _Optional[_Union[BagelOptions, _Mapping]] = ..., flux: _Optional[_Union[FluxOptions, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., num_images: _Optional[int] = ...) -> None: ...

class OutputOptions(_message.Message):
    __slots__ = ("quality", "compression_level")
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_LEVEL_FIELD_NUMBER: _ClassVar[int]
    quality: int
    compression_level: int
    def __init__(self, quality: _Optional[int] = ..., compression_level: _Optional[int] = ...) -> None: ...

class InputImage(_message.Message):
    __slots__ = ("data", "upload_id", "description")
    DATA_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    upload_id: str
    description: ImageDescription
    def __init__(self, data: _Optional[bytes] = ..., upload_id: _Optional[str] = ..., description: _Optional[_Union[ImageDescription, _Mapping]] = ...) -> None: ...

class ImageDescription(_message.Message):
    __slots__ = ("width", "height", "size_bytes", "checksum_xxh3")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_XXH3_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    size_bytes: int
    checksum_xxh3: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., size_bytes: _Optional[int] = ..., checksum_xxh3: _Optional[int] = ...) -> None: ...

class VideoOptions(_message.Message):
    __slots__ = ("num_frames", "frames_per_second", "low_noise_guidance_scale")
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    FRAMES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LOW_NOISE_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    num_frames: int
    frames_per_second: int
    low_noise_guidance_scale: float
    def __init__(self, num_frames: _Optional[int] = ..., frames_per_second: _Optional[int] = ..., low_noise_guidance_scale: _Optional[float] = ...) -> None: ...

class LayeredOptions(_message.Message):
    __slots__ = ("layers", "resolution", "caption_image")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    CAPTION_IMAGE_FIELD_NUMBER: _ClassVar[int]
    layers: int
    resolution: int
    caption_image: bool
    def __init__(self, layers: _Optional[int] = ..., resolution: _Optional[int] = ..., caption_image: _Optional[bool] = ...) -> None: ...

class LongCatOptions(_message.Message):
    __slots__ = ("rewrite_prompt",)
    REWRITE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    rewrite_prompt: bool
    def __init__(self, rewrite_prompt: _Optional[bool] = ...) -> None: ...

class BagelOptions(_message.Message):
    __slots__ = ("image_guidance_scale", "guidance_interval_start", "guidance_interval_end")
    IMAGE_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_INTERVAL_START_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_INTERVAL_END_FIELD_NUMBER: _ClassVar[int]
    image_guidance_scale: float
    guidance_interval_start: float
    guidance_interval_end: float
    def __init__(self, image_guidance_scale: _Optional[float] = ..., guidance_interval_start: _Optional[float] = ..., guidance_interval_end: _Optional[float] = ...) -> None: ...

class FluxOptions(_message.Message):
    __slots__ = ("true_guidance_scale",)
    TRUE_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    true_guidance_scale: float
    def __init__(self, true_guidance_scale: _Optional[float] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("artifact_id", "media_format", "width", "height", "num_frames", "size_bytes", "checksum_xxh3", "tile_size", "index", "seed", "latents_checksum_xxh3", "expire_time", "url")
    ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_XXH3_FIELD_NUMBER: _ClassVar[int]
    TILE_SIZE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LATENTS_CHECKSUM_XXH3_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    artifact_id: str
    media_format: MediaFormat
    width: int
    height: int
    num_frames: int
    size_bytes: int
    checksum_xxh3: int
    tile_size: int
    index: int
    seed: int
    latents_checksum_xxh3: int
    expire_time: _timestamp_pb2.Timestamp
    url: str
    def __init__(self, artifact_id: _Optional[str] = ..., media_format: _Optional[_Union[MediaFormat, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., num_frames: _Optional[int] = ..., size_bytes: _Optional[int] = ..., checksum_xxh3: _Optional[int] = ..., tile_size: _Optional[int] = ..., index: _Optional[int] = ..., seed: _Optional[int] = ..., latents_checksum_xxh3: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., url: _Optional[str] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "queue_duration", "run_duration", "transfer_duration", "total_duration", "task", "writing_duration")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DURATION_FIELD_NUMBER: _ClassVar[int]
    RUN_DURATION_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_DURATION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DURATION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    WRITING_DURATION_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    queue_duration: _duration_pb2.Duration
    run_duration: _duration_pb2.Duration
    transfer_duration: _duration_pb2.Duration
    total_duration: _duration_pb2.Duration
    task: StageTask
    writing_duration: _duration_pb2.Duration
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., queue_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., run_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., transfer_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., total_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., task: _Optional[_Union[StageTask, str]] = ..., writing_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ConditioningReuse(_message.Message):
    __slots__ = ("part", "looked_up", "reused")
    PART_FIELD_NUMBER: _ClassVar[int]
    LOOKED_UP_FIELD_NUMBER: _ClassVar[int]
    REUSED_FIELD_NUMBER: _ClassVar[int]
    part: ConditioningPart
    looked_up: int
    reused: int
    def __init__(self, part: _Optional[_Union[ConditioningPart, str]] = ..., looked_up: _Optional[int] = ..., reused: _Optional[int] = ...) -> None: ...

class Fingerprint(_message.Message):
    __slots__ = ("part", "digest")
    PART_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    part: str
    digest: str
    def __init__(self, part: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class SoftwareVersion(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("fingerprints", "versions")
    FINGERPRINTS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    fingerprints: _containers.RepeatedCompositeFieldContainer[Fingerprint]
    versions: _containers.RepeatedCompositeFieldContainer[SoftwareVersion]
    def __init__(self, fingerprints: _Optional[_Iterable[_Union[Fingerprint, _Mapping]]] = ..., versions: _Optional[_Iterable[_Union[SoftwareVersion, _Mapping]]] = ...) -> None: ...

class GenerationResult(_message.Message):
    __slots__ = ("parameters", "artifacts", "stage_timings", "cache_statistics", "latents_checksum_xxh3", "total_duration", "written_prompt", "parallel_degrees", "conditioning_reuse", "receipt")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    STAGE_TIMINGS_FIELD_NUMBER: _ClassVar[int]
    CACHE_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    LATENTS_CHECKSUM_XXH3_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DURATION_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_PROMPT_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_DEGREES_FIELD_NUMBER: _ClassVar[int]
    CONDITIONING_REUSE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    parameters: GenerationParameters
    artifacts: _containers.RepeatedCompositeFieldContainer[Artifact]
    stage_timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    cache_statistics: _acceleration_pb2.CacheStatistics
    latents_checksum_xxh3: int
    total_duration: _duration_pb2.Duration
    written_prompt: str
    parallel_degrees: _acceleration_pb2.ParallelDegrees
    conditioning_reuse: _containers.RepeatedCompositeFieldContainer[ConditioningReuse]
    receipt: Receipt
    def __init__(self, parameters: _Optional[_Union[GenerationParameters, _Mapping]] = ..., artifacts: _Optional[_Iterable[_Union[Artifact, _Mapping]]] = ..., stage_timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., cache_statistics: _Optional[_Union[_acceleration_pb2.CacheStatistics, _Mapping]] = ..., latents_checksum_xxh3: _Optional[int] = ..., total_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., written_prompt: _Optional[str] = ..., parallel_degrees: _Optional[_Union[_acceleration_pb2.ParallelDegrees, _Mapping]] = ..., conditioning_reuse: _Optional[_Iterable[_Union[ConditioningReuse, _Mapping]]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...
