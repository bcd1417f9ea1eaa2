"""A denoiser beside a running cluster's own, and a gateway before it."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.processes import start
from tests.system.running_cluster import MODEL, RunningCluster
from triptych import Client

_SECONDS = 120


def shared_flags(cluster: RunningCluster) -> list[str]:
    """What a denoiser or a rank is told that works with a cluster's other stages."""
    return [
        f"--model={MODEL}",
        f"--store=shm://{cluster.store}",
        f"--cluster-secret-file={cluster.sockets}/secret",
    ]


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, which is ended by SIGTERM."""
    process = subprocess.Popen(command, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def further_denoiser(
    cluster: RunningCluster, folder: Path, *options: str, beside: bool
) -> Iterator[Client]:
    """A client of a gateway before it; yielded once every denoiser behind the gateway is ready.

    Args:
        cluster: whose encoder, VAE and store it uses.
        folder: for its sockets.
        options: further ones of the denoiser.
        beside: whether the cluster's own denoiser is behind the same gateway.
    """
    own, sockets = f"unix:{folder}/denoiser.sock", cluster.sockets
    target = f"unix:{folder}/gateway.sock"
    denoiser = [f"--listen={own}", *shared_flags(cluster), *options]
    gateway = [
        f"--listen={target}",
        f"--cluster-secret-file={sockets}/secret",
        f"--encoder=unix:{sockets}/encoder.sock",
        f"--vae=unix:{sockets}/vae.sock",
        f"--denoiser={own}",
        *([f"--denoiser=unix:{sockets}/denoiser.sock"] if beside else []),
        f"--start-patience-seconds={_SECONDS}",
    ]
    with ExitStack() as exits:
        for process in (
            start("denoiser_service", *denoiser, children=["denoiser_service.rank"]),
            start("services.gateway", *gateway),
        ):
            exits.callback(process.wait, 60)
            exits.callback(process.terminate)
        wait_serving(target)
        yield exits.enter_context(Client(target, timeout=_SECONDS))


def wait_serving(target: str, seconds: float = _SECONDS) -> None:
    """Follows a gateway's health until it serves."""
    with grpc.insecure_channel(target) as channel:
        answers = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True
        )
        next(each for each in answers if each.status == health_pb2.HealthCheckResponse.SERVING)
