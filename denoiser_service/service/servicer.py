"""DenoiserService on the wire."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from denoiser_service.service.replica import DenoiserReplica
from services.domain.stages import DenoiseEvent, DenoiseStarted
from services.rpc.stage_servicer import checked_identity, deadline_of
from services.rpc.tables import DENOISE_EVENTS, DENOISE_REQUESTS
from triptych.domain.errors import FieldViolation, InvalidRequest
from triptych.domain.events import StageStarted
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask
from triptych.v1 import denoiser_service_pb2, denoiser_service_pb2_grpc

# A long video takes minutes; a caller without a deadline must not hold the ranks for ever.
_DEFAULT_SECONDS = 3600.0
_UNSERVED = ("scheduling", "checkpoint_every_steps")


class DenoiserServicer(denoiser_service_pb2_grpc.DenoiserServiceServicer):
    """See protos/triptych/v1/denoiser_service.proto."""

    def __init__(self, denoiser: DenoiserReplica) -> None:
        self._denoiser = denoiser

    async def Denoise(  # noqa: N802 - gRPC's name
        self,
        request: denoiser_service_pb2.DenoiseRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[denoiser_service_pb2.DenoiseResponse]:
        """Denoises and streams one event per step."""
        given = {field.name for field, _ in request.ListFields()}
        if unserved := [field for field in _UNSERVED if field in given]:
            raise InvalidRequest([FieldViolation(field, "is not served") for field in unserved])
        checked_identity(request.request_id, request.tenant)
        wanted = DENOISE_REQUESTS.read(request)
        deadline = deadline_of(context, _DEFAULT_SECONDS)
        async with aclosing(self._denoiser.denoise(wanted, deadline)) as events:
            async for event in events:
                yield _to_proto(event)

    async def Cancel(  # noqa: N802 - gRPC's name
        self,
        request: denoiser_service_pb2.CancelRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> denoiser_service_pb2.CancelResponse:
        """Stops a request at the next step."""
        completed = self._denoiser.cancel(request.request_id)
        return denoiser_service_pb2.CancelResponse(completed_steps=completed)


def _to_proto(event: DenoiseEvent) -> denoiser_service_pb2.DenoiseResponse:
    started = StageStarted(Stage.DENOISER, StageTask.DENOISE)
    return DENOISE_EVENTS.write(started if isinstance(event, DenoiseStarted) else event)
