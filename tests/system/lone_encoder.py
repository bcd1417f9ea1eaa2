"""A real encoder in a process of its own, asked without a gateway."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.domain.stages import Encoded, EncodeRequest
from services.rpc.stage_clients import RemoteEncoder
from tests.processes import Process, start
from tests.system.running_cluster import MODEL, READY_SECONDS
from triptych.domain.call_seal import CallSeal
from triptych.domain.deadline import Deadline
from triptych.domain.generation import GenerationRequest, resolve


class LoneEncoder:
    """What answers at an address."""

    def __init__(self, process: Process, client: RemoteEncoder) -> None:
        self.process = process
        self._client = client

    async def encode(self, digit: str, tenant: str = "default", **asked: object) -> Encoded:
        """Encodes for the request whose id is a digit, 32 times."""
        (loaded,) = (await self._client.capacity(Deadline.after(10))).models
        fields = {"prompt": "a red circle on a blue background", "steps": 2, **asked}
        request = GenerationRequest(**fields)
        parameters = resolve(request, loaded.model, draw_seed=lambda: 0)
        return await self._client.encode(
            EncodeRequest(digit * 32, tenant, parameters), Deadline.after(60)
        )

    async def release(self, digit: str, tenant: str = "default") -> int:
        """Releases that request's tensors."""
        return await self._client.release(tenant, digit * 32, Deadline.after(10))


@asynccontextmanager
async def lone_encoder(folder: Path, store: str, *flags: str) -> AsyncIterator[LoneEncoder]:
    """Those in the same folder share a secret.

    Args:
        folder: for the secret and the sockets.
        store: the URL of the tensor store.
        flags: further ones.
    """
    secret = folder / "secret"
    if not secret.exists():
        secret.write_text("s" * 64)
    address = f"unix:{folder}/{len(list(folder.iterdir()))}.sock"
    process = start(
        *("encoder_service", "--listen", address, "--store", store),
        *("--model", str(MODEL), "--cluster-secret-file", str(secret)),
        *("--exit-with-parent", str(os.getpid()), *flags),
    )
    try:
        await _serving(address)
        client = RemoteEncoder(address, seal=CallSeal(secret.read_text()))
        yield LoneEncoder(process, client)
        await client.close()
    finally:
        process.terminate()
        process.wait(30)


async def _serving(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=READY_SECONDS, wait_for_ready=True
        )
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
