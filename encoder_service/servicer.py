"""EncoderService on the wire."""

from typing import Any

import grpc

from services.domain.stages import Encoder, EncodeRequest
from services.rpc.convert.generation import parameters_from_proto
from services.rpc.convert.images import image_data
from services.rpc.convert.stages import reuse_to_proto, timing_to_proto
from services.rpc.convert.tensors import tensor_ref_to_proto
from services.rpc.stage_servicer import checked_identity, deadline_of
from triptych.v1 import encoder_service_pb2, encoder_service_pb2_grpc


class EncoderServicer(encoder_service_pb2_grpc.EncoderServiceServicer):
    """See protos/triptych/v1/encoder_service.proto."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    async def Encode(  # noqa: N802 - gRPC's name
        self,
        request: encoder_service_pb2.EncodeRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> encoder_service_pb2.EncodeResponse:
        """Encodes and stores the conditioning."""
        request_id, tenant = checked_identity(request.request_id, request.tenant)
        asked = EncodeRequest(
            request_id=request_id,
            tenant=tenant,
            parameters=parameters_from_proto(request.parameters),
            images=image_data(request.parameters),
        )
        encoded = await self._encoder.encode(asked, deadline_of(context))
        return encoder_service_pb2.EncodeResponse(
            conditioning=tensor_ref_to_proto(encoded.conditioning),
            timing=timing_to_proto(encoded.timing),
            written_prompt=encoded.written_prompt,
            conditioning_reuse=map(reuse_to_proto, encoded.conditioning_reuse),
        )
