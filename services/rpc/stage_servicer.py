"""What every stage serves beside its own service: StageService and TensorStoreService."""

from typing import Any, Protocol

import grpc

from services.domain.stages import Capacity, Replica
from services.domain.tensor_ref import IDENTIFIER, TENANT
from services.observability.logs import get_logger
from services.rpc.server import ServiceServer
from services.rpc.store_calls import StoreCalls
from services.rpc.tables import CAPACITIES, STORE_STATS
from triptych.domain.deadline import Deadline
from triptych.domain.errors import FieldViolation, InvalidRequest, StageUnavailable
from triptych.v1 import (
    stage_service_pb2,
    stage_service_pb2_grpc,
    tensor_store_service_pb2,
    tensor_store_service_pb2_grpc,
)

STAGE_SERVICES = ("triptych.v1.StageService", "triptych.v1.TensorStoreService")
_DEFAULT_SECONDS = 30.0

_log = get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class LocalReplica(Replica, Protocol):
    """A replica in this process, which can be told to end."""

    def load(self) -> Capacity:
        """What it holds and how busy it is, for any thread."""
        ...

    def drain(self) -> None:
        """Refuses further work; what is admitted finishes, or is handed over."""
        ...

    async def broken(self) -> StageUnavailable:
        """Why no work can succeed any more, as soon as that is so: its process is to end."""
        ...

    async def close(self) -> None:
        """Waits for the work at hand and ends."""
        ...


def deadline_of(context: Context, default_seconds: float = _DEFAULT_SECONDS) -> Deadline:
    """The caller's deadline, or one so many seconds from now if it set none."""
    remaining = context.time_remaining()
    return Deadline.after(default_seconds if remaining is None else remaining)


def checked_identity(request_id: str, tenant: str) -> tuple[str, str]:
    """The same two, since both become part of file names and keys.

    Raises:
        InvalidRequest: one of them is malformed.
    """
    wrong = []
    if not IDENTIFIER.fullmatch(request_id):
        wrong.append(FieldViolation("request_id", "must be 32 hexadecimal digits"))
    if not TENANT.fullmatch(tenant):
        wrong.append(FieldViolation("tenant", "must be 1 to 64 letters, digits, - or _"))
    if wrong:
        raise InvalidRequest(wrong)
    return request_id, tenant


class StageServicer(stage_service_pb2_grpc.StageServiceServicer):
    """See protos/triptych/v1/stage_service.proto."""

    def __init__(self, replica: LocalReplica, server: ServiceServer) -> None:
        self._replica = replica
        self._server = server

    async def GetCapacity(  # noqa: N802 - gRPC's name
        self, request: stage_service_pb2.GetCapacityRequest, context: Context
    ) -> stage_service_pb2.GetCapacityResponse:
        """Reads what the replica holds and how busy it is."""
        return CAPACITIES.write(await self._replica.capacity(deadline_of(context)))

    async def Drain(  # noqa: N802 - gRPC's name
        self, request: stage_service_pb2.DrainRequest, context: Context
    ) -> stage_service_pb2.DrainResponse:
        """Stops taking requests; reports not serving."""
        if request.instance_id != self._replica.load().instance_id:
            raise InvalidRequest.of(
                "instance_id", f"is {request.instance_id!r}; the replica here has another"
            )
        # Whose word it was is on the line, as on all of a call.
        _log.warning("drained")
        self._replica.drain()
        await self._server.set_serving(serving=False)
        capacity = await self._replica.capacity(deadline_of(context))
        return stage_service_pb2.DrainResponse(
            running_requests=capacity.running_requests + capacity.queued_requests
        )


class TensorStoreServicer(tensor_store_service_pb2_grpc.TensorStoreServiceServicer):
    """See protos/triptych/v1/tensor_store_service.proto."""

    def __init__(self, store: StoreCalls) -> None:
        self._store = store

    async def Release(  # noqa: N802 - gRPC's name
        self, request: tensor_store_service_pb2.ReleaseRequest, context: Context
    ) -> tensor_store_service_pb2.ReleaseResponse:
        """Releases everything one request stored."""
        request_id, tenant = checked_identity(request.request_id, request.tenant)
        released = await self._store.release_request(tenant, request_id)
        return tensor_store_service_pb2.ReleaseResponse(released=released)

    async def Stat(  # noqa: N802 - gRPC's name
        self, request: tensor_store_service_pb2.StatRequest, context: Context
    ) -> tensor_store_service_pb2.StatResponse:
        """Reads how full the store is."""
        stats = await self._store.stats()
        return STORE_STATS.write(stats)


def add_stage_servicers(server: ServiceServer, replica: LocalReplica, store: StoreCalls) -> None:
    """Adds what every stage serves."""
    stage_service_pb2_grpc.add_StageServiceServicer_to_server(
        StageServicer(replica, server), server.grpc
    )
    tensor_store_service_pb2_grpc.add_TensorStoreServiceServicer_to_server(
        TensorStoreServicer(store), server.grpc
    )
