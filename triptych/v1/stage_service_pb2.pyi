import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from triptych.v1 import capabilities_pb2 as _capabilities_pb2
from triptych.v1 import generation_pb2 as _generation_pb2
from triptych.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCapacityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapacityResponse(_message.Message):
    __slots__ = ("stage", "instance_id", "models", "tensor_store", "running_requests", "queued_requests", "max_queued_requests", "draining", "rank_group", "loading", "versions")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    TENSOR_STORE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    RANK_GROUP_FIELD_NUMBER: _ClassVar[int]
    LOADING_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    stage: _generation_pb2.Stage
    instance_id: str
    models: _containers.RepeatedCompositeFieldContainer[LoadedModel]
    tensor_store: str
    running_requests: int
    queued_requests: int
    max_queued_requests: int
    draining: bool
    rank_group: RankGroup
    loading: bool
    versions: _containers.RepeatedCompositeFieldContainer[_generation_pb2.SoftwareVersion]
    def __init__(self, stage: _Optional[_Union[_generation_pb2.Stage, str]] = ..., instance_id: _Optional[str] = ..., models: _Optional[_Iterable[_Union[LoadedModel, _Mapping]]] = ..., tensor_store: _Optional[str] = ..., running_requests: _Optional[int] = ..., queued_requests: _Optional[int] = ..., max_queued_requests: _Optional[int] = ..., draining: _Optional[bool] = ..., rank_group: _Optional[_Union[RankGroup, _Mapping]] = ..., loading: _Optional[bool] = ..., versions: _Optional[_Iterable[_Union[_generation_pb2.SoftwareVersion, _Mapping]]] = ...) -> None: ...

class LoadedModel(_message.Message):
    __slots__ = ("model", "components", "fingerprints")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINTS_FIELD_NUMBER: _ClassVar[int]
    model: _capabilities_pb2.Model
    components: _containers.RepeatedCompositeFieldContainer[Component]
    fingerprints: _containers.RepeatedCompositeFieldContainer[_generation_pb2.Fingerprint]
    def __init__(self, model: _Optional[_Union[_capabilities_pb2.Model, _Mapping]] = ..., components: _Optional[_Iterable[_Union[Component, _Mapping]]] = ..., fingerprints: _Optional[_Iterable[_Union[_generation_pb2.Fingerprint, _Mapping]]] = ...) -> None: ...

class Component(_message.Message):
    __slots__ = ("name", "parameter_count", "size_bytes", "dtype")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameter_count: int
    size_bytes: int
    dtype: _tensor_pb2.ElementType
    def __init__(self, name: _Optional[str] = ..., parameter_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., dtype: _Optional[_Union[_tensor_pb2.ElementType, str]] = ...) -> None: ...

class RankGroup(_message.Message):
    __slots__ = ("ranks", "generation", "completed_steps", "ulysses_degree", "ring_degree", "cfg_degree", "held_bytes", "reserved_bytes", "max_resident_bytes", "backlog")
    RANKS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_STEPS_FIELD_NUMBER: _ClassVar[int]
    ULYSSES_DEGREE_FIELD_NUMBER: _ClassVar[int]
    RING_DEGREE_FIELD_NUMBER: _ClassVar[int]
    CFG_DEGREE_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    ranks: int
    generation: int
    completed_steps: int
    ulysses_degree: int
    ring_degree: int
    cfg_degree: int
    held_bytes: int
    reserved_bytes: int
    max_resident_bytes: int
    backlog: _duration_pb2.Duration
    def __init__(self, ranks: _Optional[int] = ..., generation: _Optional[int] = ..., completed_steps: _Optional[int] = ..., ulysses_degree: _Optional[int] = ..., ring_degree: _Optional[int] = ..., cfg_degree: _Optional[int] = ..., held_bytes: _Optional[int] = ..., reserved_bytes: _Optional[int] = ..., max_resident_bytes: _Optional[int] = ..., backlog: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("instance_id",)
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    def __init__(self, instance_id: _Optional[str] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("running_requests",)
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    running_requests: int
    def __init__(self, running_requests: _Optional[int] = ...) -> None: ...
