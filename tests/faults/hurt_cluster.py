"""A cluster with several of everything, on servers of its own."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.faults.members import Member, Rank, Server, Service
from tests.faults.orders import Painter
from tests.system.further_denoiser import wait_serving
from tests.valkey_server import KeyValueServer

_KEPT = ("--appendonly", "yes", "--appendfsync", "always")
_DRAIN_SECONDS = 3
_LEASE_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Studio:
    """A model's replicas.

    Attributes:
        painter: the model.
        directory: its files.
        encoders: how many.
        denoisers: how many ranks each has.
        vaes: how many.
    """

    painter: Painter
    directory: Path
    encoders: int
    denoisers: Sequence[int]
    vaes: int


class HurtCluster:
    """All of its processes.

    Args:
        folder: short, for sockets, logs and artifacts.
        studios: the models.
        gateways: how many.
        checkpoint_steps: see the denoiser's flag.
    """

    def __init__(
        self, folder: Path, studios: Sequence[Studio], gateways: int, checkpoint_steps: int
    ) -> None:
        self.folder = folder
        self._secret = folder / "secret"
        self._secret.write_text(secrets.token_hex(32))
        self._secret.chmod(0o600)
        self.servers = [
            Server(name, self._server(name, *options))
            for name, options in (("tensors", ()), ("ledger", _KEPT))
        ]
        self._tensors, self._ledger = (each.server.url for each in self.servers)
        self.replicas: list[Service] = []
        self.ranks: list[Rank] = []
        self._targets: dict[str, list[str]] = {"encoder": [], "denoiser": [], "vae": []}
        for studio in studios:
            self._open(studio, checkpoint_steps)
        self.gateways = [self._gateway(number) for number in range(gateways)]

    @property
    def members(self) -> list[Member]:
        """Whoever may be killed."""
        return [*self.servers, *self.replicas, *self.ranks, *self.gateways]

    @property
    def services(self) -> list[Service]:
        """Processes of ours."""
        return [*self.replicas, *self.gateways]

    def target(self, gateway: Service) -> str:
        """Where a gateway listens."""
        return f"unix:{self.folder}/{gateway.name}.sock"

    def wait_serving(self) -> None:
        """Waits until every gateway has seen every replica."""
        for gateway in self.gateways:
            wait_serving(self.target(gateway))

    def channels(self) -> list[grpc.aio.Channel]:
        """To all gateways; one that was away is looked for again at once."""
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.min_reconnect_backoff_ms", 100)]
        return [
            grpc.aio.insecure_channel(self.target(gateway), options) for gateway in self.gateways
        ]

    def end(self) -> dict[str, int]:
        """Ends all; gives the exit codes of our processes."""
        codes = {service.name: service.end() for service in (*self.gateways, *self.replicas)}
        for server in self.servers:
            server.end()
        return codes

    def _server(self, name: str, *options: str) -> KeyValueServer:
        directory = self.folder / name
        directory.mkdir()
        return KeyValueServer(directory, *options)

    def _open(self, studio: Studio, checkpoint_steps: int) -> None:
        kind = studio.painter.kind
        for number in range(studio.encoders):
            self._replica("encoder", f"{kind}-encoder-{number}", studio)
        for number in range(studio.vaes):
            self._replica("vae", f"{kind}-vae-{number}", studio)
        for number, ranks in enumerate(studio.denoisers):
            saving = [f"--checkpoint-steps={checkpoint_steps}", "--silence-seconds=3"]
            spread = [f"--ring={ranks}"] if ranks > 1 else []
            name = f"{kind}-denoiser-{number}"
            denoiser = self._replica("denoiser", name, studio, *saving, *spread)
            self.ranks += [Rank(denoiser, rank) for rank in range(ranks)]

    def _replica(self, stage: str, name: str, studio: Studio, *options: str) -> Service:
        target = f"unix:{self.folder}/{name}.sock"
        command = [
            f"{stage}_service",
            f"--listen={target}",
            f"--model={studio.directory}",
            f"--store={self._tensors}",
            f"--cluster-secret-file={self._secret}",
            f"--drain-seconds={_DRAIN_SECONDS}",
            "--threads=1",
            *([] if stage == "denoiser" else ["--conditioning-cache-bytes=0"]),
            *options,
        ]
        children = ["denoiser_service.rank"] if stage == "denoiser" else []
        service = Service(name, stage, command, self.folder / f"{name}.log", children)
        self.replicas.append(service)
        self._targets[stage].append(target)
        return service

    def _gateway(self, number: int) -> Service:
        name = f"gateway-{number}"
        command = [
            "services.gateway",
            f"--listen=unix:{self.folder}/{name}.sock",
            f"--cluster-secret-file={self._secret}",
            *(
                f"--{stage}={target}"
                for stage, targets in self._targets.items()
                for target in targets
            ),
            f"--jobs={self._ledger}",
            f"--job-lease-seconds={_LEASE_SECONDS}",
            f"--artifacts=file://{self.folder}/artifacts",
            f"--drain-seconds={_DRAIN_SECONDS}",
            "--start-patience-seconds=60",
            "--poll-seconds=0.1",
        ]
        return Service(name, "gateway", command, self.folder / f"{name}.log")
