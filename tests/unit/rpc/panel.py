"""A stage behind its servicers, with nothing that computes, and its client."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from pydantic_settings import SettingsConfigDict

from denoiser_service.service.servicer import DenoiserServicer
from encoder_service.servicer import EncoderServicer
from services.domain.settings import StageSettings
from services.domain.stages import Capacity
from services.rpc.stage_clients import RemoteDenoiser, RemoteEncoder, RemoteVae
from services.rpc.stage_host import StageHost
from services.rpc.store_calls import StoreCalls
from tests.unit.domain.examples import REQUEST_ID, capacity
from tests.unit.gateway.scripted_stages import ScriptedDenoiser, ScriptedEncoder, ScriptedVae
from tests.unit.rpc.scripted_store import ScriptedStore
from triptych.domain.call_seal import SIGNATURE_METADATA, CallSeal
from triptych.domain.errors import NotFound, StageUnavailable
from triptych.domain.model import Stage
from triptych.v1 import (
    denoiser_service_pb2_grpc,
    encoder_service_pb2_grpc,
    vae_service_pb2_grpc,
)
from vae_service.servicer import VaeServicer

SECRET = "a secret of at least 32 characters"
CANCEL = "/triptych.v1.DenoiserService/Cancel"
RELEASE = "/triptych.v1.TensorStoreService/Release"
DRAIN = "/triptych.v1.StageService/Drain"


def signed(method: str, request: Message) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that the cluster's own make."""
    arguments = request.SerializeToString(deterministic=True)
    return ((SIGNATURE_METADATA, CallSeal(SECRET).sign(method, arguments)),)


class Settings(StageSettings):
    """Read from no environment that anybody sets."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_UNIT_TEST_")


class Ending:
    """What a stage does at its end."""

    drained = False
    closed = False

    def __init__(self) -> None:
        super().__init__()
        self.breaks: asyncio.Future[StageUnavailable] = asyncio.Future()

    async def broken(self) -> StageUnavailable:
        return await self.breaks

    def load(self) -> Capacity:
        return capacity(Stage.ENCODER)

    def drain(self) -> None:
        self.drained = True

    async def close(self) -> None:
        self.closed = True


class EndingEncoder(Ending, ScriptedEncoder):
    """An encoder's process, without one."""


class EndingVae(Ending, ScriptedVae):
    """A VAE's process, without one."""


class EndingDenoiser(Ending, ScriptedDenoiser):
    """A denoiser's process, without one."""

    def cancel(self, request_id: str) -> int:
        if request_id != REQUEST_ID:
            raise NotFound(f"request_id: {request_id} is not being denoised here")
        return 5


class Panel:
    """A stage behind its servicers, and its client."""

    def __init__(self, tmp_path: Path, replica: Any, client: type[Any]) -> None:
        (tmp_path / "secret").write_text(SECRET)
        self.told = Settings(
            listen=f"unix:{tmp_path}/socket",
            model=Path("m"),
            store="memory:",
            cluster_secret_file=tmp_path / "secret",
            sweep_seconds=3600,
        )
        self.replica = replica
        self.store = ScriptedStore()
        self.host = StageHost(
            self.told, "triptych.v1.EncoderService", replica, StoreCalls(self.store)
        )
        self.remote = client(self.told.listen, seal=CallSeal(SECRET))


async def served(address: str) -> None:
    """Returns once somebody listens there."""
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()


@asynccontextmanager
async def panel_of(tmp_path: Path, replica: Any, add: Any, servicer: Any, client: Any) -> Any:
    panel = Panel(tmp_path, replica, client)
    add(servicer(replica), panel.host.server.grpc)
    running = asyncio.create_task(panel.host.run(serving=True))
    try:
        async with asyncio.timeout(40):
            await served(panel.told.listen)
            yield panel
    finally:
        await panel.remote.close()
        panel.host.server.stop()
        await asyncio.wait_for(running, 20)


def encoder_panel(tmp_path: Path) -> Any:
    add = encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server
    return panel_of(tmp_path, EndingEncoder(), add, EncoderServicer, RemoteEncoder)


def denoiser_panel(tmp_path: Path, replica: EndingDenoiser | None = None) -> Any:
    add = denoiser_service_pb2_grpc.add_DenoiserServiceServicer_to_server
    return panel_of(tmp_path, replica or EndingDenoiser(), add, DenoiserServicer, RemoteDenoiser)


def vae_panel(tmp_path: Path) -> Any:
    add = vae_service_pb2_grpc.add_VaeServiceServicer_to_server
    return panel_of(tmp_path, EndingVae(), add, VaeServicer, RemoteVae)
