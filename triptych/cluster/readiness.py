"""Whether a server says that it serves."""

import asyncio
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_PAUSE_SECONDS: Final = 0.1
_CHECK_SECONDS: Final = 5.0
_OPTIONS: Final = (
    # A server that is only just starting refuses the first attempts; gRPC's own pauses are long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
)


async def until_serving(target: str) -> None:
    """Returns once grpc.health.v1 at `target` answers SERVING for the whole server."""
    async with grpc.aio.insecure_channel(target, _OPTIONS) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            if await _serving(health):
                return
            await asyncio.sleep(_PAUSE_SECONDS)


async def _serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        response = await health.Check(health_pb2.HealthCheckRequest(), timeout=_CHECK_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
