"""VaeService on the wire."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from services.domain.stages import (
    Artifact,
    DecodeEvent,
    DecodeRequest,
    DrawPreviewRequest,
    EncodeImageRequest,
    MediaChunk,
    Vae,
)
from services.rpc.convert.generation import parameters_from_proto
from services.rpc.convert.stages import artifact_to_proto, reuse_to_proto, timing_to_proto
from services.rpc.convert.tensors import tensor_ref_from_proto, tensor_ref_to_proto
from services.rpc.stage_servicer import checked_identity, deadline_of
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
        request_id, tenant = checked_identity(request.request_id, request.tenant)
        asked = EncodeImageRequest(
            request_id=request_id,
            tenant=tenant,
            parameters=parameters_from_proto(request.parameters),
            index=request.image_index,
            image=request.image.data,
        )
        encoded = await self._vae.encode_image(asked, deadline_of(context))
        return vae_service_pb2.EncodeImageResponse(
            latents=tensor_ref_to_proto(encoded.latents),
            timing=timing_to_proto(encoded.timing),
            conditioning_reuse=map(reuse_to_proto, encoded.conditioning_reuse),
        )

    async def Decode(  # noqa: N802 - gRPC's name
        self,
        request: vae_service_pb2.DecodeRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[vae_service_pb2.DecodeResponse]:
        """Decodes latents and streams the encoded media."""
        request_id, tenant = checked_identity(request.request_id, request.tenant)
        asked = DecodeRequest(
            request_id=request_id,
            tenant=tenant,
            parameters=parameters_from_proto(request.parameters),
            latents=tensor_ref_from_proto("latents", request.latents),
        )
        async with aclosing(self._vae.decode(asked, deadline_of(context))) as events:
            async for event in events:
                yield _to_proto(event)

    async def DrawPreview(  # noqa: N802 - gRPC's name
        self,
        request: vae_service_pb2.DrawPreviewRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> vae_service_pb2.DrawPreviewResponse:
        """Draws a small picture of latents that are not finished."""
        request_id, tenant = checked_identity(request.request_id, request.tenant)
        asked = DrawPreviewRequest(
            request_id=request_id,
            tenant=tenant,
            parameters=parameters_from_proto(request.parameters),
            latents=tensor_ref_from_proto("latents", request.latents),
        )
        drawn = await self._vae.draw_preview(asked, deadline_of(context))
        return vae_service_pb2.DrawPreviewResponse(
            data=drawn.data, width=drawn.width, height=drawn.height
        )


def _to_proto(event: DecodeEvent) -> vae_service_pb2.DecodeResponse:
    if isinstance(event, Artifact):
        return vae_service_pb2.DecodeResponse(artifact=artifact_to_proto(event))
    if isinstance(event, MediaChunk):
        return vae_service_pb2.DecodeResponse(data=event.data)
    return vae_service_pb2.DecodeResponse(timing=timing_to_proto(event.timing))
