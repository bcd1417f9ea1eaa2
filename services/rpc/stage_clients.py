"""The stages in other processes, behind the same ports as those in this one."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from pydantic import ValidationError

from services.domain.stages import (
    Capacity,
    Decoded,
    DecodeEvent,
    DecodeRequest,
    DenoiseEvent,
    DenoiseRequest,
    DenoiseStarted,
    DrawPreviewRequest,
    Encoded,
    EncodedImage,
    EncodeImageRequest,
    EncodeRequest,
    MediaChunk,
    PreviewPicture,
)
from services.domain.tls import TlsFiles
from services.observability import tracing
from services.rpc.channels import open_channel
from services.rpc.convert.generation import parameters_to_proto
from services.rpc.convert.models import capacity_from_proto
from services.rpc.convert.stages import (
    artifact_from_proto,
    denoised_from_proto,
    preview_latents_from_proto,
    reuse_from_proto,
    step_from_proto,
    timing_from_proto,
)
from services.rpc.convert.tensors import tensor_ref_from_proto, tensor_ref_to_proto
from services.rpc.interceptors import REQUEST_ID_METADATA
from services.rpc.status import error_of
from triptych.domain.call_seal import SIGNATURE_METADATA, CallSeal
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest, TensorRefused, TriptychError
from triptych.domain.model import Stage
from triptych.v1 import (
    denoiser_service_pb2,
    denoiser_service_pb2_grpc,
    encoder_service_pb2,
    encoder_service_pb2_grpc,
    generation_pb2,
    stage_service_pb2,
    stage_service_pb2_grpc,
    tensor_store_service_pb2,
    tensor_store_service_pb2_grpc,
    vae_service_pb2,
    vae_service_pb2_grpc,
)

T = TypeVar("T")

_RELEASE = "/triptych.v1.TensorStoreService/Release"
_CANCEL = "/triptych.v1.DenoiserService/Cancel"
_DRAIN = "/triptych.v1.StageService/Drain"


class RemoteReplica:
    """What every stage answers, over gRPC.

    Args:
        stage: which panel is there.
        target: host:port or unix:/path.
        tls: what to show and trust; None for a plain channel.
        seal: signs administrative calls; without it the stage refuses them.
    """

    def __init__(
        self,
        stage: Stage,
        target: str,
        tls: TlsFiles | None = None,
        seal: CallSeal | None = None,
    ) -> None:
        self._seal = seal
        self._stage = stage
        self._target = target
        self._channel = open_channel(target, tls)
        self._stages = stage_service_pb2_grpc.StageServiceStub(self._channel)
        self._stores = tensor_store_service_pb2_grpc.TensorStoreServiceStub(self._channel)

    async def capacity(self, deadline: Deadline) -> Capacity:
        """What it holds and how busy it is."""
        request = stage_service_pb2.GetCapacityRequest()
        with self._errors():
            answer = await self._stages.GetCapacity(request, timeout=deadline.remaining_seconds())
            return capacity_from_proto(answer)

    async def release(self, tenant: str, request_id: str, deadline: Deadline) -> int:
        """Releases all a request stored, whichever stage wrote it."""
        request = tensor_store_service_pb2.ReleaseRequest(tenant=tenant, request_id=request_id)
        with self._errors():
            answer = await self._stores.Release(
                request,
                timeout=deadline.remaining_seconds(),
                metadata=(*_metadata(request_id), *self._signed(_RELEASE, request)),
            )
        return answer.released

    async def drain(self, deadline: Deadline) -> int:
        """Has it take no further requests; returns how many it is still at work on."""
        instance_id = (await self.capacity(deadline)).instance_id
        request = stage_service_pb2.DrainRequest(instance_id=instance_id)
        with self._errors():
            answer = await self._stages.Drain(
                request,
                timeout=deadline.remaining_seconds(),
                metadata=self._signed(_DRAIN, request),
            )
        return answer.running_requests

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    def _signed(self, method: str, request: Message) -> tuple[tuple[str, str], ...]:
        if self._seal is None:
            return ()
        arguments = request.SerializeToString(deterministic=True)
        return ((SIGNATURE_METADATA, self._seal.sign(method, arguments)),)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self._stage, self._target) from error
        except (ValidationError, InvalidRequest, TensorRefused) as error:
            # Found in the answer, which is no fault of the request's.
            raise TriptychError(
                f"the {self._stage} at {self._target} sent a malformed answer: {error}"
            ) from error


class RemoteEncoder(RemoteReplica):
    """Prompts to conditioning, over gRPC."""

    def __init__(
        self, target: str, tls: TlsFiles | None = None, seal: CallSeal | None = None
    ) -> None:
        super().__init__(Stage.ENCODER, target, tls, seal)
        self._encoder = encoder_service_pb2_grpc.EncoderServiceStub(self._channel)

    async def encode(self, request: EncodeRequest, deadline: Deadline) -> Encoded:
        """Encodes and stores."""
        message = encoder_service_pb2.EncodeRequest(
            request_id=request.request_id,
            tenant=request.tenant,
            parameters=parameters_to_proto(request.parameters, request.images),
        )
        with self._errors():
            answer = await self._encoder.Encode(
                message,
                timeout=deadline.remaining_seconds(),
                metadata=_metadata(request.request_id),
            )
            return Encoded(
                conditioning=tensor_ref_from_proto("conditioning", answer.conditioning),
                timing=timing_from_proto(answer.timing),
                written_prompt=answer.written_prompt if answer.HasField("written_prompt") else None,
                conditioning_reuse=tuple(map(reuse_from_proto, answer.conditioning_reuse)),
            )


class RemoteDenoiser(RemoteReplica):
    """The denoising loop, over gRPC."""

    def __init__(
        self, target: str, tls: TlsFiles | None = None, seal: CallSeal | None = None
    ) -> None:
        super().__init__(Stage.DENOISER, target, tls, seal)
        self._denoiser = denoiser_service_pb2_grpc.DenoiserServiceStub(self._channel)

    async def denoise(
        self, request: DenoiseRequest, deadline: Deadline
    ) -> AsyncGenerator[DenoiseEvent, None]:
        """Yields what happens; closing it cancels the call."""
        message = denoiser_service_pb2.DenoiseRequest(
            request_id=request.request_id,
            tenant=request.tenant,
            parameters=parameters_to_proto(request.parameters),
            conditioning=tensor_ref_to_proto(request.conditioning),
            image_latents=map(tensor_ref_to_proto, request.image_latents),
        )
        call = self._denoiser.Denoise(
            message, timeout=deadline.remaining_seconds(), metadata=_metadata(request.request_id)
        )
        try:
            with self._errors():
                async for answer in call:
                    yield _denoise_event(answer)
        finally:
            call.cancel()

    async def cancel(self, request_id: str, deadline: Deadline) -> int:
        """Stops a request at its next step; returns the steps it has done."""
        request = denoiser_service_pb2.CancelRequest(request_id=request_id)
        with self._errors():
            answer = await self._denoiser.Cancel(
                request,
                timeout=deadline.remaining_seconds(),
                metadata=self._signed(_CANCEL, request),
            )
        return answer.completed_steps


class RemoteVae(RemoteReplica):
    """Pictures to latents, and latents to media, over gRPC."""

    def __init__(
        self, target: str, tls: TlsFiles | None = None, seal: CallSeal | None = None
    ) -> None:
        super().__init__(Stage.VAE, target, tls, seal)
        self._vae = vae_service_pb2_grpc.VaeServiceStub(self._channel)

    async def encode_image(self, request: EncodeImageRequest, deadline: Deadline) -> EncodedImage:
        """Encodes one input image and stores its latents."""
        message = vae_service_pb2.EncodeImageRequest(
            request_id=request.request_id,
            tenant=request.tenant,
            parameters=parameters_to_proto(request.parameters),
            image=generation_pb2.InputImage(data=request.image),
            image_index=request.index,
        )
        with self._errors():
            answer = await self._vae.EncodeImage(
                message,
                timeout=deadline.remaining_seconds(),
                metadata=_metadata(request.request_id),
            )
            return EncodedImage(
                latents=tensor_ref_from_proto("latents", answer.latents),
                timing=timing_from_proto(answer.timing),
                conditioning_reuse=tuple(map(reuse_from_proto, answer.conditioning_reuse)),
            )

    async def decode(
        self, request: DecodeRequest, deadline: Deadline
    ) -> AsyncGenerator[DecodeEvent, None]:
        """Yields the media; closing it cancels the call."""
        message = vae_service_pb2.DecodeRequest(
            request_id=request.request_id,
            tenant=request.tenant,
            parameters=parameters_to_proto(request.parameters),
            latents=tensor_ref_to_proto(request.latents),
        )
        call = self._vae.Decode(
            message, timeout=deadline.remaining_seconds(), metadata=_metadata(request.request_id)
        )
        try:
            with self._errors():
                async for answer in call:
                    yield _decode_event(answer)
        finally:
            call.cancel()

    async def draw_preview(self, request: DrawPreviewRequest, deadline: Deadline) -> PreviewPicture:
        """Draws by a linear map, beside whatever is being encoded or decoded."""
        message = vae_service_pb2.DrawPreviewRequest(
            request_id=request.request_id,
            tenant=request.tenant,
            parameters=parameters_to_proto(request.parameters),
            latents=tensor_ref_to_proto(request.latents),
        )
        with self._errors():
            answer = await self._vae.DrawPreview(
                message,
                timeout=deadline.remaining_seconds(),
                metadata=_metadata(request.request_id),
            )
        return PreviewPicture(answer.data, answer.width, answer.height)


def _metadata(request_id: str) -> tuple[tuple[str, str], ...]:
    return ((REQUEST_ID_METADATA, request_id), *tracing.headers())


def _denoise_event(answer: denoiser_service_pb2.DenoiseResponse) -> DenoiseEvent:
    match answer.WhichOneof("event"):
        case "started":
            return DenoiseStarted()
        case "step_completed":
            return step_from_proto(answer.step_completed)
        case "preview":
            return preview_latents_from_proto(answer.preview)
        case "denoised":
            return denoised_from_proto(answer.denoised)
        case unknown:
            raise TriptychError(f"the denoiser sent an event this gateway does not know: {unknown}")


def _decode_event(answer: vae_service_pb2.DecodeResponse) -> DecodeEvent:
    match answer.WhichOneof("payload"):
        case "artifact":
            return artifact_from_proto(answer.artifact)
        case "data":
            return MediaChunk(answer.data)
        case "timing":
            return Decoded(timing_from_proto(answer.timing))
        case unknown:
            raise TriptychError(f"the VAE sent a payload this gateway does not know: {unknown}")
