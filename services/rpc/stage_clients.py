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
from services.rpc.generation_request import attach_images
from services.rpc.interceptors import REQUEST_ID_METADATA
from services.rpc.status import error_of
from services.rpc.tables import (
    CAPACITIES,
    DECODE_REQUESTS,
    DENOISE_EVENTS,
    DENOISE_REQUESTS,
    DRAW_PREVIEW_REQUESTS,
    ENCODE_IMAGE_REQUESTS,
    ENCODE_REQUESTS,
    ENCODED,
    ENCODED_IMAGES,
    PREVIEW_PICTURES,
)
from triptych.codec.tables import ARTIFACTS, TIMINGS
from triptych.domain.call_seal import SIGNATURE_METADATA, CallSeal
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest, TensorRefused, TriptychError
from triptych.domain.events import StageStarted
from triptych.domain.model import Stage
from triptych.v1 import (
    denoiser_service_pb2,
    denoiser_service_pb2_grpc,
    encoder_service_pb2_grpc,
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
            return CAPACITIES.read(answer)

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
        message = ENCODE_REQUESTS.write(request)
        attach_images(message.parameters, request.images)
        with self._errors():
            answer = await self._encoder.Encode(
                message,
                timeout=deadline.remaining_seconds(),
                metadata=_metadata(request.request_id),
            )
            return ENCODED.read(answer)


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
        message = DENOISE_REQUESTS.write(request)
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
        message = ENCODE_IMAGE_REQUESTS.write(request)
        with self._errors():
            answer = await self._vae.EncodeImage(
                message,
                timeout=deadline.remaining_seconds(),
                metadata=_metadata(request.request_id),
            )
            return ENCODED_IMAGES.read(answer)

    async def decode(
        self, request: DecodeRequest, deadline: Deadline
    ) -> AsyncGenerator[DecodeEvent, None]:
        """Yields the media; closing it cancels the call."""
        message = DECODE_REQUESTS.write(request)
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
        message = DRAW_PREVIEW_REQUESTS.write(request)
        with self._errors():
            answer = await self._vae.DrawPreview(
                message,
                timeout=deadline.remaining_seconds(),
                metadata=_metadata(request.request_id),
            )
            return PREVIEW_PICTURES.read(answer)


def _metadata(request_id: str) -> tuple[tuple[str, str], ...]:
    return ((REQUEST_ID_METADATA, request_id), *tracing.headers())


def _denoise_event(answer: denoiser_service_pb2.DenoiseResponse) -> DenoiseEvent:
    event = DENOISE_EVENTS.read(answer)
    if event is None:
        unknown = answer.WhichOneof("event")
        raise TriptychError(f"the denoiser sent an event this gateway does not know: {unknown}")
    return DenoiseStarted() if isinstance(event, StageStarted) else event


def _decode_event(answer: vae_service_pb2.DecodeResponse) -> DecodeEvent:
    match answer.WhichOneof("payload"):
        case "artifact":
            return ARTIFACTS.read(answer.artifact)
        case "data":
            return MediaChunk(answer.data)
        case "timing":
            return Decoded(TIMINGS.read(answer.timing))
        case unknown:
            raise TriptychError(f"the VAE sent a payload this gateway does not know: {unknown}")
