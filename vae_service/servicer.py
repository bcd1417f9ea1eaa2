"""VaeService on the wire."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from services.domain.stages import DecodeEvent, MediaChunk, Vae
from services.rpc.stage_servicer import checked_identity, deadline_of
from services.rpc.tables import (
    DECODE_REQUESTS,
    DRAW_PREVIEW_REQUESTS,
    ENCODE_IMAGE_REQUESTS,
    ENCODED_IMAGES,
    PREVIEW_PICTURES,
)
from triptych.codec.tables import ARTIFACTS, TIMINGS
from triptych.domain.generation_result import Artifact
from triptych.v1 import vae_service_pb2, vae_service_pb2_grpc


class VaeServicer(vae_service_pb2_grpc.VaeServiceServicer):
    """See protos/triptych/v1/vae_service.proto."""

    def __init__(self, vae: Vae) -> None:
        self._vae = vae

    async def EncodeImage(  # noqa: N802 - gRPC's name
        self,
        request: vae_service_pb2.EncodeImageRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> vae_service_pb2.EncodeImageResponse:
        """Encodes one input image and stores its latents."""
        checked_identity(request.request_id, request.tenant)
        asked = ENCODE_IMAGE_REQUESTS.read(request)
        encoded = await self._vae.encode_image(asked, deadline_of(context))
        return ENCODED_IMAGES.write(encoded)

    async def Decode(  # noqa: N802 - gRPC's name
        self,
        request: vae_service_pb2.DecodeRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[vae_service_pb2.DecodeResponse]:
        """Decodes latents and streams the encoded media."""
        checked_identity(request.request_id, request.tenant)
        asked = DECODE_REQUESTS.read(request)
        async with aclosing(self._vae.decode(asked, deadline_of(context))) as events:
            async for event in events:
                yield _to_proto(event)

    async def DrawPreview(  # noqa: N802 - gRPC's name
        self,
        request: vae_service_pb2.DrawPreviewRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> vae_service_pb2.DrawPreviewResponse:
        """Draws a small picture of latents that are not finished."""
        checked_identity(request.request_id, request.tenant)
        asked = DRAW_PREVIEW_REQUESTS.read(request)
        drawn = await self._vae.draw_preview(asked, deadline_of(context))
        return PREVIEW_PICTURES.write(drawn)


def _to_proto(event: DecodeEvent) -> vae_service_pb2.DecodeResponse:
    if isinstance(event, Artifact):
        return vae_service_pb2.DecodeResponse(artifact=ARTIFACTS.write(event))
    if isinstance(event, MediaChunk):
        return vae_service_pb2.DecodeResponse(data=event.data)
    return vae_service_pb2.DecodeResponse(timing=TIMINGS.write(event.timing))
