import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from triptych.v1 import acceleration_pb2 as _acceleration_pb2
from triptych.v1 import generation_pb2 as _generation_pb2
from triptych.v1 import job_pb2 as _job_pb2
from triptych.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DenoiseRequest(_message.Message):
    __slots__ = ("request_id", "tenant", "parameters", "conditioning", "image_latents", "scheduling", "resume_from", "checkpoint_every_steps", "image_index", "attempt", "can_hand_over")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONING_FIELD_NUMBER: _ClassVar[int]
    IMAGE_LATENTS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_FIELD_NUMBER: _ClassVar[int]
    RESUME_FROM_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CAN_HAND_OVER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    tenant: str
    parameters: _generation_pb2.GenerationParameters
    conditioning: _tensor_pb2.TensorRef
    image_latents: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorRef]
    scheduling: _job_pb2.SchedulingOptions
    resume_from: Checkpoint
    checkpoint_every_steps: int
    image_index: int
    attempt: int
    can_hand_over: bool
    def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., parameters: _Optional[_Union[_generation_pb2.GenerationParameters, _Mapping]] = ..., conditioning: _Optional[_Union[_tensor_pb2.TensorRef, _Mapping]] = ..., image_latents: _Optional[_Iterable[_Union[_tensor_pb2.TensorRef, _Mapping]]] = ..., scheduling: _Optional[_Union[_job_pb2.SchedulingOptions, _Mapping]] = ..., resume_from: _Optional[_Union[Checkpoint, _Mapping]] = ..., checkpoint_every_steps: _Optional[int] = ..., image_index: _Optional[int] = ..., attempt: _Optional[int] = ..., can_hand_over: _Optional[bool] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("completed_steps", "parts", "parallel_degrees", "store_duration", "steps")
    COMPLETED_STEPS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_DEGREES_FIELD_NUMBER: _ClassVar[int]
    STORE_DURATION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    completed_steps: int
    parts: _containers.RepeatedCompositeFieldContainer[CheckpointPart]
    parallel_degrees: _acceleration_pb2.ParallelDegrees
    store_duration: _duration_pb2.Duration
    steps: _containers.RepeatedCompositeFieldContainer[_job_pb2.StepCompleted]
    def __init__(self, completed_steps: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[CheckpointPart, _Mapping]]] = ..., parallel_degrees: _Optional[_Union[_acceleration_pb2.ParallelDegrees, _Mapping]] = ..., store_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[_job_pb2.StepCompleted, _Mapping]]] = ...) -> None: ...

class CheckpointPart(_message.Message):
    __slots__ = ("rank", "tensors")
    RANK_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    rank: int
    tensors: _tensor_pb2.TensorRef
    def __init__(self, rank: _Optional[int] = ..., tensors: _Optional[_Union[_tensor_pb2.TensorRef, _Mapping]] = ...) -> None: ...

class DenoisedLatents(_message.Message):
    __slots__ = ("latents", "timing", "cache_statistics", "latents_checksum_xxh3", "parallel_degrees")
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CACHE_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    LATENTS_CHECKSUM_XXH3_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_DEGREES_FIELD_NUMBER: _ClassVar[int]
    latents: _tensor_pb2.TensorRef
    timing: _generation_pb2.StageTiming
    cache_statistics: _acceleration_pb2.CacheStatistics
    latents_checksum_xxh3: int
    parallel_degrees: _acceleration_pb2.ParallelDegrees
    def __init__(self, latents: _Optional[_Union[_tensor_pb2.TensorRef, _Mapping]] = ..., timing: _Optional[_Union[_generation_pb2.StageTiming, _Mapping]] = ..., cache_statistics: _Optional[_Union[_acceleration_pb2.CacheStatistics, _Mapping]] = ..., latents_checksum_xxh3: _Optional[int] = ..., parallel_degrees: _Optional[_Union[_acceleration_pb2.ParallelDegrees, _Mapping]] = ...) -> None: ...

class PreviewLatents(_message.Message):
    __slots__ = ("step", "latents")
    STEP_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    step: int
    latents: _tensor_pb2.TensorRef
    def __init__(self, step: _Optional[int] = ..., latents: _Optional[_Union[_tensor_pb2.TensorRef, _Mapping]] = ...) -> None: ...

class DenoiseResponse(_message.Message):
    __slots__ = ("queued", "started", "step_completed", "preview", "checkpoint", "denoised")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STEP_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    DENOISED_FIELD_NUMBER: _ClassVar[int]
    queued: _job_pb2.JobQueued
    started: _job_pb2.StageStarted
    step_completed: _job_pb2.StepCompleted
    preview: PreviewLatents
    checkpoint: Checkpoint
    denoised: DenoisedLatents
    def __init__(self, queued: _Optional[_Union[_job_pb2.JobQueued, _Mapping]] = ..., started: _Optional[_Union[_job_pb2.StageStarted, _Mapping]] = ..., step_completed: _Optional[_Union[_job_pb2.StepCompleted, _Mapping]] = ..., preview: _Optional[_Union[PreviewLatents, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ..., denoised: _Optional[_Union[DenoisedLatents, _Mapping]] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class CancelResponse(_message.Message):
    __slots__ = ("completed_steps",)
    COMPLETED_STEPS_FIELD_NUMBER: _ClassVar[int]
    completed_steps: int
    def __init__(self, completed_steps: _Optional[int] = ...) -> None: ...
