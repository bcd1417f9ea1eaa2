"""The standard health service, on a server that drains."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from services.rpc.process import run_until_first_ends

Context = grpc.aio.ServicerContext[Any, Any]

_STATES = health_pb2.HealthCheckResponse

LIVE = "live"
"""Serves as long as the event loop turns and nothing broke: what a process that does not is to be
restarted for. One that drains, loads or rebuilds its ranks is alive."""


class HealthService:
    """Serves grpc.health.v1.Health, and lets go of those who watch when the server ends.

    A watch lasts as long as its server; gRPC would wait for it until the drain has timed out.

    Attributes:
        alive: what is answered for LIVE.
    """

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()
        self._ended = asyncio.Event()
        self.alive = True
        # Answered as it is.
        self.List = self._servicer.List

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: ANN401, N802 - untyped
        """How a service is now."""
        if request.service == LIVE:
            return _STATES(status=_STATES.SERVING if self.alive else _STATES.NOT_SERVING)
        return await self._servicer.Check(request, context)

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
