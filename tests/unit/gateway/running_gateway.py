"""A gateway over scripted stages, as its clients reach it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic_settings import SettingsConfigDict

from services.gateway.app import GatewayApp
from services.gateway.settings import PipelineSettings
from services.rpc.channels import open_channel
from services.rpc.status import error_of
from tests.unit.gateway.scripted_stages import ScriptedCluster
from triptych.codec.tables import MODELS
from triptych.domain.errors import TriptychError
from triptych.domain.model import Capabilities
from triptych.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc

SERVICE = generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Settings(PipelineSettings):
    """Read from no environment that anybody sets."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_UNIT_TEST_")


class Gateway:
    """A running gateway over scripted stages, and a channel to it."""

    def __init__(
        self, app: GatewayApp, cluster: ScriptedCluster, channel: grpc.aio.Channel
    ) -> None:
        self.app = app
        self.cluster = cluster
        self.channel = channel
        self.metadata: tuple[tuple[str, str], ...] = ()
        self.stub: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        self._health = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE.full_name))

    async def until_health_is(self, status: int) -> None:
        """Returns once the gateway says so of itself."""
        while (await self._health.read()).status != status:
            pass

    async def until_the_model_is(self, capabilities: Capabilities) -> None:
        """Returns once the gateway has seen a model with such limits."""
        asked = generation_service_pb2.GetModelRequest(name="painter")
        while True:
            try:
                answer = await self.stub.GetModel(asked)
            except grpc.aio.AioRpcError as error:
                # While some replicas have been looked at and others have not, they disagree.
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                    raise
                continue
            if MODELS.read(answer.model).capabilities == capabilities:
                return

    def generate(self, **parameters: Any) -> Any:
        """Asks for a picture, of a red circle unless something else is said."""
        asked = generation_pb2.GenerationParameters(**({"prompt": "a red circle"} | parameters))
        return self.stub.Generate(
            generation_service_pb2.GenerateRequest(parameters=asked),
            timeout=20,
            metadata=self.metadata,
        )


@asynccontextmanager
async def running_gateway(
    tmp_path: Path, *, patience_seconds: float = 40, **told_as_well: Any
) -> AsyncIterator[Gateway]:
    """Serves until the block is left; its socket is in the folder."""
    told = Settings(
        listen=f"unix:{tmp_path}/socket", poll_seconds=0.01, drain_seconds=20, **told_as_well
    )
    cluster = ScriptedCluster()
    app = GatewayApp(told, [cluster.encoder], [cluster.denoiser], [cluster.vae])
    running = asyncio.create_task(app.run())
    try:
        async with asyncio.timeout(patience_seconds), open_channel(told.listen) as channel:
            await channel.channel_ready()
            gateway = Gateway(app, cluster, channel)
            await gateway.until_health_is(SERVING)
            yield gateway
    finally:
        app.server.stop()
        await asyncio.wait_for(running, 20)


async def failure_of(call: Any) -> TriptychError:
    """What a call ended with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _ended(call)
    return error_of(caught.value, "gateway", "nowhere")


async def _ended(call: Any) -> None:
    if not hasattr(call, "read"):
        await call
        return
    while await call.read() is not grpc.aio.EOF:
        pass
