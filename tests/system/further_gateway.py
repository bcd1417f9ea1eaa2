"""Gateways before a running cluster's stages, on one ledger of jobs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import Process, start
from tests.system.further_denoiser import wait_serving
from tests.system.running_cluster import RunningCluster

LEASE_SECONDS = 2.0
STAGES = ("encoder", "denoiser", "vae")


class FurtherGateway:
    """A process, and where it listens."""

    def __init__(self, process: Process, target: str) -> None:
        self.process = process
        self.target = target


@contextmanager
def further_gateway(
    cluster: RunningCluster, folder: Path, name: str, ledger: str, *options: str
) -> Iterator[FurtherGateway]:
    """One that serves; ended by SIGTERM, unless a test has ended it otherwise.

    Args:
        cluster: whose stages it works with.
        folder: for its socket, and for the artifacts that all gateways there share.
        name: of this one.
        ledger: URL of the jobs' ledger.
        options: further ones of the gateway.
    """
    target = f"unix:{folder}/{name}.sock"
    process = start(
        "services.gateway",
        f"--listen={target}",
        f"--cluster-secret-file={cluster.sockets}/secret",
        *(
            f"--{each}=unix:{cluster.sockets}/{each}.sock"
            for each in ("encoder", "denoiser", "vae")
        ),
        f"--jobs={ledger}",
        f"--job-lease-seconds={LEASE_SECONDS:g}",
        f"--artifacts=file://{folder}/artifacts",
        "--start-patience-seconds=60",
        "--poll-seconds=0.05",
        *options,
    )
    try:
        wait_serving(target)
        yield FurtherGateway(process, target)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
