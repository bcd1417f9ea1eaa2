"""DenoiserService on the wire."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from denoiser_service.service.replica import DenoiserReplica
from services.domain.stages import (
    DenoiseEvent,
    DenoiseRequest,
    DenoiseStarted,
    PreviewLatents,
    StageTask,
    StepCompleted,
)
from services.rpc.convert.enums import STAGE_TASKS, STAGES
from services.rpc.convert.generation import parameters_from_proto
from services.rpc.convert.stages import (
    denoised_to_proto,
    preview_latents_to_proto,
    step_to_proto,
)
from services.rpc.convert.tensors import tensor_ref_from_proto
from services.rpc.stage_servicer import checked_identity, deadline_of
from triptych.domain.errors import FieldViolation, InvalidRequest
from triptych.domain.model import Stage
from triptych.v1 import denoiser_service_pb2, denoiser_service_pb2_grpc, job_pb2

# A long video takes minutes; a caller without a deadline must not hold the ranks for ever.
_DEFAULT_SECONDS = 3600.0
_UNSERVED = ("scheduling", "resume_from", "checkpoint_every_steps")


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
        if unserved := [each for each in _UNSERVED if each in given]:
            raise InvalidRequest([FieldViolation(each, "is not served") for each in unserved])
        request_id, tenant = checked_identity(request.request_id, request.tenant)
        asked = DenoiseRequest(
            request_id=request_id,
            tenant=tenant,
            parameters=parameters_from_proto(request.parameters),
            conditioning=tensor_ref_from_proto("conditioning", request.conditioning),
            image_latents=tuple(
                tensor_ref_from_proto(f"image_latents[{number}]", each)
                for number, each in enumerate(request.image_latents)
            ),
        )
        deadline = deadline_of(context, _DEFAULT_SECONDS)
        async with aclosing(self._denoiser.denoise(asked, deadline)) as events:
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
    if isinstance(event, DenoiseStarted):
        started = job_pb2.StageStarted(
            stage=STAGES.to_wire(Stage.DENOISER), task=STAGE_TASKS.to_wire(StageTask.DENOISE)
        )
        return denoiser_service_pb2.DenoiseResponse(started=started)
    if isinstance(event, StepCompleted):
        return denoiser_service_pb2.DenoiseResponse(step_completed=step_to_proto(event))
    if isinstance(event, PreviewLatents):
        return denoiser_service_pb2.DenoiseResponse(preview=preview_latents_to_proto(event))
    return denoiser_service_pb2.DenoiseResponse(denoised=denoised_to_proto(event))
