from triptych.v1 import generation_pb2 as _generation_pb2
from triptych.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EncodeImageRequest(_message.Message):
    __slots__ = ("request_id", "tenant", "parameters", "image", "image_index", "attempt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    tenant: str
    parameters: _generation_pb2.GenerationParameters
    image: _generation_pb2.InputImage
    image_index: int
    attempt: int
    def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., parameters: _Optional[_Union[_generation_pb2.GenerationParameters, _Mapping]] = ..., image: _Optional[_Union[_generation_pb2.InputImage, _Mapping]] = ..., image_index: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class EncodeImageResponse(_message.Message):
    __slots__ = ("latents", "timing", "conditioning_reuse")
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONDITIONING_REUSE_FIELD_NUMBER: _ClassVar[int]
    latents: _tensor_pb2.TensorRef
    timing: _generation_pb2.StageTiming
    conditioning_reuse: _containers.RepeatedCompositeFieldContainer[_generation_pb2.ConditioningReuse]
    def __init__(self, latents: _Optional[_Union[_tensor_pb2.TensorRef, _Mapping]] = ..., timing: _Optional[_Union[_generation_pb2.StageTiming, _Mapping]] = ..., conditioning_reuse: _Optional[_Iterable[_Union[_generation_pb2.ConditioningReuse, _Mapping]]] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("request_id", "tenant", "parameters", "latents", "attempt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    tenant: str
    parameters: _generation_pb2.GenerationParameters
    latents: _tensor_pb2.TensorRef
    attempt: int
    def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., parameters: _Optional[_Union[_generation_pb2.GenerationParameters, _Mapping]] = ..., latents: _Optional[_Union[_tensor_pb2.TensorRef, _Mapping]] = ..., attempt: _Optional[int] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("artifact", "data", "timing")
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    artifact: _generation_pb2.Artifact
    data: bytes
    timing: _generation_pb2.StageTiming
    def __init__(self, artifact: _Optional[_Union[_generation_pb2.Artifact, _Mapping]] = ..., data: _Optional[bytes] = ..., timing: _Optional[_Union[_generation_pb2.StageTiming, _Mapping]] = ...) -> None: ...

class DrawPreviewRequest(_message.Message):
    __slots__ = ("request_id", "tenant", "parameters", "latents", "attempt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    tenant: str
    parameters: _generation_pb2.GenerationParameters
    latents: _tensor_pb2.TensorRef
    attempt: int
    def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., parameters: _Optional[_Union[_generation_pb2.GenerationParameters, _Mapping]] = ..., latents: _Optional[_Union[_tensor_pb2.TensorRef, _Mapping]] = ..., attempt: _Optional[int] = ...) -> None: ...

class DrawPreviewResponse(_message.Message):
    __slots__ = ("data", "width", "height")
    DATA_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    width: int
    height: int
    def __init__(self, data: _Optional[bytes] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...
