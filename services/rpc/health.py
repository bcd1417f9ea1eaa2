"""The standard health service, on a server that drains."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from services.rpc.process import run_until_first_ends

Context = grpc.aio.ServicerContext[Any, Any]

_STATES = health_pb2.HealthCheckResponse


class HealthService:
    """Serves grpc.health.v1.Health, and lets go of those who watch when the server ends.

    A watch lasts as long as its server; gRPC would wait for it until the drain has timed out.
    """

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()
        self._ended = asyncio.Event()
        # Answered as they are.
        self.Check = self._servicer.Check
        self.List = self._servicer.List

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: ANN401, N802 - untyped
        """How a service is, from now until the server ends."""
        await run_until_first_ends(self._servicer.Watch(request, context), self._ended.wait())
        await context.write(_STATES(status=_STATES.NOT_SERVING))

    async def set(self, service: str, *, serving: bool) -> None:
        """What to answer for a service from now on; has no effect after `end`."""
        await self._servicer.set(service, _STATES.SERVING if serving else _STATES.NOT_SERVING)

    async def end(self) -> None:
        """Reports every service as not serving, for good."""
        await self._servicer.enter_graceful_shutdown()
        self._ended.set()
