"""EncoderService on the wire."""

from dataclasses import replace
from typing import Any

import grpc

from services.domain.stages import Encoder
from services.rpc.generation_request import image_data
from services.rpc.stage_servicer import checked_identity, deadline_of
from services.rpc.tables import ENCODE_REQUESTS, ENCODED
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
        checked_identity(request.request_id, request.tenant)
        asked = replace(ENCODE_REQUESTS.read(request), images=image_data(request.parameters))
        encoded = await self._encoder.encode(asked, deadline_of(context))
        return ENCODED.write(encoded)
