import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.domain.checkpoint import Checkpoint, CheckpointPart
from services.domain.stages import DenoiseEvent, DenoiseRequest, DenoiseStarted
from services.rpc.channels import open_channel
from services.rpc.health import LIVE
from services.rpc.stage_clients import RemoteVae
from tests.unit.domain.examples import PARAMETERS, REQUEST_ID, TENSOR_REF
from tests.unit.rpc.panel import (
    EndingDenoiser,
    EndingVae,
    Panel,
    denoiser_panel,
    encoder_panel,
    served,
)
from triptych.domain.deadline import Deadline
from triptych.domain.errors import HandedOver, RemoteFailure, StageUnavailable

CHECKPOINT = Checkpoint(1, (CheckpointPart(0, TENSOR_REF),))


async def test_a_stage_that_ends_lets_go_of_everything_in_order(tmp_path: Path) -> None:
    async with encoder_panel(tmp_path) as panel:
        pass
    assert panel.replica.drained
    assert panel.replica.closed
    assert panel.store.told[-2:] == ["sweep", "close"]


class HandingOver(EndingDenoiser):
    """Denoises until it is drained."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()

    def drain(self) -> None:
        super().drain()
        self.told.set()

    async def denoise(
        self, request: DenoiseRequest, deadline: Deadline
    ) -> AsyncGenerator[DenoiseEvent, None]:
        yield DenoiseStarted()
        await self.told.wait()
        yield CHECKPOINT
        raise HandedOver("the denoiser is draining")


async def test_a_denoiser_that_is_told_to_end_hands_over_what_it_is_at_work_on(
    tmp_path: Path,
) -> None:
    request = DenoiseRequest(REQUEST_ID, "default", PARAMETERS, TENSOR_REF, can_hand_over=True)
    async with denoiser_panel(tmp_path, HandingOver()) as panel:
        events = panel.remote.denoise(request, Deadline.after(20))
        assert await anext(events) == DenoiseStarted()
        panel.host.server.stop()
        # Its end waits for running calls, and they end because of it.
        assert await anext(events) == CHECKPOINT
        with pytest.raises(RemoteFailure) as ended:
            await anext(events)
    assert (ended.value.status, ended.value.reason) == ("UNAVAILABLE", HandedOver.reason)


async def test_a_replica_that_broke_ends_its_process(tmp_path: Path) -> None:
    panel = Panel(tmp_path, EndingVae(), RemoteVae)
    running = asyncio.create_task(panel.host.run(serving=True))
    await served(panel.told.listen)
    async with open_channel(panel.told.listen) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        live = health_pb2.HealthCheckRequest(service=LIVE)
        assert (await health.Check(live, timeout=20)).status == (
            health_pb2.HealthCheckResponse.SERVING
        )
        panel.replica.breaks.set_result(StageUnavailable("the vae hangs"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(StageUnavailable, match="the vae hangs"):
            await asyncio.wait_for(running, 20)
    await panel.remote.close()
    assert panel.replica.closed


async def test_a_sweep_that_fails_ends_the_stage_and_lets_go_of_everything(
    tmp_path: Path,
) -> None:
    panel = Panel(tmp_path, EndingVae(), RemoteVae)
    panel.store.sweep_fails = OSError("no such directory")
    with pytest.raises(OSError, match="no such directory"):
        await asyncio.wait_for(panel.host.run(serving=True), 20)
    await panel.remote.close()
    assert panel.replica.closed
    assert panel.store.told == ["sweep", "sweep", "close"]
