from triptych.v1 import generation_pb2 as _generation_pb2
from triptych.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EncodeRequest(_message.Message):
    __slots__ = ("request_id", "tenant", "parameters", "attempt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    tenant: str
    parameters: _generation_pb2.GenerationParameters
    attempt: int
    def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., parameters: _Optional[_Union[_generation_pb2.GenerationParameters, _Mapping]] = ..., attempt: _Optional[int] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("conditioning", "timing", "written_prompt", "conditioning_reuse")
    CONDITIONING_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CONDITIONING_REUSE_FIELD_NUMBER: _ClassVar[int]
    conditioning: _tensor_pb2.TensorRef
    timing: _generation_pb2.StageTiming
    written_prompt: str
    conditioning_reuse: _containers.RepeatedCompositeFieldContainer[_generation_pb2.ConditioningReuse]
    def __init__(self, conditioning: _Optional[_Union[_tensor_pb2.TensorRef, _Mapping]] = ..., timing: _Optional[_Union[_generation_pb2.StageTiming, _Mapping]] = ..., written_prompt: _Optional[str] = ..., conditioning_reuse: _Optional[_Iterable[_Union[_generation_pb2.ConditioningReuse, _Mapping]]] = ...) -> None: ...
