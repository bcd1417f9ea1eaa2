from triptych.v1 import denoiser_service_pb2 as _denoiser_service_pb2
from triptych.v1 import encoder_service_pb2 as _encoder_service_pb2
from triptych.v1 import generation_pb2 as _generation_pb2
from triptych.v1 import vae_service_pb2 as _vae_service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StoredRequest(_message.Message):
    __slots__ = ("parameters", "images", "traceparent", "bound")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    parameters: _generation_pb2.GenerationParameters
    images: _containers.RepeatedCompositeFieldContainer[StoredArtifactKey]
    traceparent: str
    bound: bool
    def __init__(self, parameters: _Optional[_Union[_generation_pb2.GenerationParameters, _Mapping]] = ..., images: _Optional[_Iterable[_Union[StoredArtifactKey, _Mapping]]] = ..., traceparent: _Optional[str] = ..., bound: _Optional[bool] = ...) -> None: ...

class StoredArtifactKey(_message.Message):
    __slots__ = ("tenant", "kind", "artifact_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    kind: str
    artifact_id: str
    def __init__(self, tenant: _Optional[str] = ..., kind: _Optional[str] = ..., artifact_id: _Optional[str] = ...) -> None: ...

class StoredOutput(_message.Message):
    __slots__ = ("encoded", "encoded_image", "checkpoint", "denoised", "decoded")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    ENCODED_IMAGE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    DENOISED_FIELD_NUMBER: _ClassVar[int]
    DECODED_FIELD_NUMBER: _ClassVar[int]
    encoded: _encoder_service_pb2.EncodeResponse
    encoded_image: _vae_service_pb2.EncodeImageResponse
    checkpoint: _denoiser_service_pb2.Checkpoint
    denoised: _denoiser_service_pb2.DenoisedLatents
    decoded: DecodedArtifact
    def __init__(self, encoded: _Optional[_Union[_encoder_service_pb2.EncodeResponse, _Mapping]] = ..., encoded_image: _Optional[_Union[_vae_service_pb2.EncodeImageResponse, _Mapping]] = ..., checkpoint: _Optional[_Union[_denoiser_service_pb2.Checkpoint, _Mapping]] = ..., denoised: _Optional[_Union[_denoiser_service_pb2.DenoisedLatents, _Mapping]] = ..., decoded: _Optional[_Union[DecodedArtifact, _Mapping]] = ...) -> None: ...

class DecodedArtifact(_message.Message):
    __slots__ = ("artifact", "timing")
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    artifact: _generation_pb2.Artifact
    timing: _generation_pb2.StageTiming
    def __init__(self, artifact: _Optional[_Union[_generation_pb2.Artifact, _Mapping]] = ..., timing: _Optional[_Union[_generation_pb2.StageTiming, _Mapping]] = ...) -> None: ...
