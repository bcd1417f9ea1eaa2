"""A real server of this process on a unix socket, with handlers that a test supplies."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from pydantic_settings import SettingsConfigDict

from services.domain.settings import ServerSettings
from services.rpc.channels import open_channel
from services.rpc.server import ServiceServer
from triptych.v1 import (
    denoiser_service_pb2_grpc,
    encoder_service_pb2_grpc,
)

ENCODER = "triptych.v1.EncoderService"
DENOISER = "triptych.v1.DenoiserService"


class Settings(ServerSettings):
    """Read from no environment that anybody sets."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_UNIT_TEST_")


def settings(tmp_path: Path, **changes: Any) -> Settings:
    told: dict[str, Any] = {"listen": f"unix:{tmp_path}/socket", "drain_seconds": 20.0} | changes
    return Settings(**told)


class Unary:
    """EncoderService, of which Encode is whatever the test says."""

    def __init__(self, handle: Callable[[Any, Any], Awaitable[Any]]) -> None:
        self.Encode = handle


class Streaming:
    """DenoiserService, of which Denoise is whatever the test says."""

    def __init__(self, handle: Callable[[Any, Any], AsyncGenerator[Any, None]]) -> None:
        self.Denoise = handle
        self.Cancel = handle


@asynccontextmanager
async def serving(
    told: Settings, *servicers: Unary | Streaming
) -> AsyncIterator[tuple[ServiceServer, grpc.aio.Channel]]:
    """A started server and a channel to it."""
    server = ServiceServer("encoder", told, (ENCODER, DENOISER))
    for each in servicers:
        servicer: Any = each
        if isinstance(each, Unary):
            encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server.grpc)
        else:
            denoiser_service_pb2_grpc.add_DenoiserServiceServicer_to_server(servicer, server.grpc)
    await server.start()
    try:
        async with open_channel(told.listen) as channel:
            yield server, channel
    finally:
        await server.close()


def encoder(channel: grpc.aio.Channel) -> Any:
    return encoder_service_pb2_grpc.EncoderServiceStub(channel)


def denoiser(channel: grpc.aio.Channel) -> Any:
    return denoiser_service_pb2_grpc.DenoiserServiceStub(channel)
