import asyncio
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.rpc.channels import open_channel
from services.rpc.health import LIVE
from services.rpc.stage_clients import RemoteVae
from tests.unit.rpc.panel import EndingVae, Panel, encoder_panel, served
from triptych.domain.errors import StageUnavailable


async def test_a_stage_that_ends_lets_go_of_everything_in_order(tmp_path: Path) -> None:
    async with encoder_panel(tmp_path) as panel:
        pass
    assert panel.replica.drained
    assert panel.replica.closed
    assert panel.store.told[-2:] == ["sweep", "close"]


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
