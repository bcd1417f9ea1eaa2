"""A tensor store without room refuses one request, not the service."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.domain.deadline import Deadline
from services.domain.errors import TriptychError
from services.domain.generation import GenerationRequest, resolve
from services.domain.stages import EncodeRequest
from services.rpc.stage_clients import RemoteEncoder
from tests.system.running_cluster import MODEL, READY_SECONDS


@pytest.fixture
async def encoder(tmp_path: Path) -> AsyncIterator[RemoteEncoder]:
    """A real encoder whose store has room for one prompt's conditioning, but not for two."""
    secret = tmp_path / "secret"
    secret.write_text("s" * 64)
    address = f"unix:{tmp_path}/encoder.sock"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "encoder_service", "--listen", address),
            *("--model", str(MODEL), "--cluster-secret-file", str(secret)),
            *(
                "--store",
                f"shm://{tmp_path}/store?quota_bytes=12288",
                "--exit-with-parent",
                str(os.getpid()),
            ),
        ]
    )
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(
                health_pb2.HealthCheckRequest(), timeout=READY_SECONDS, wait_for_ready=True
            )
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
        client = RemoteEncoder(address)
        yield client
        await client.close()
    finally:
        process.terminate()
        assert process.wait(30) == 0


async def test_a_full_store_refuses_until_something_is_released(
    encoder: RemoteEncoder, tmp_path: Path
) -> None:
    (loaded,) = (await encoder.capacity(Deadline.after(10))).models
    asked = GenerationRequest(prompt="a red circle on a blue background", steps=2)
    parameters = resolve(asked, loaded.model, draw_seed=lambda: 0)

    def request(digit: str) -> EncodeRequest:
        return EncodeRequest(digit * 32, "default", parameters)

    await encoder.encode(request("a"), Deadline.after(60))
    with pytest.raises(TriptychError, match="quota_bytes") as refusal:
        await encoder.encode(request("b"), Deadline.after(60))
    assert refusal.value.status == "RESOURCE_EXHAUSTED"
    assert refusal.value.reason == "STORE_FULL"
    assert refusal.value.retry_after_seconds is not None
    assert len(list(tmp_path.glob("store/*/live/*"))) == 1

    assert await encoder.release("default", "a" * 32, Deadline.after(10)) == 1
    assert list(tmp_path.glob("store/*/live/*")) == []
    await encoder.encode(request("b"), Deadline.after(60))
