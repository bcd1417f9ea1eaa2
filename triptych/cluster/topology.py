"""Which processes make up a cluster, and what each is told."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from triptych.cluster.address import Address
from triptych.cluster.workplace import Workplace

STAGES: Final = ("encoder", "denoiser", "vae")


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: a name for people and log files, and its command line."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Processes:
    """The gateway, which is the door, and the stages behind it."""

    gateway: ProcessSpec
    stages: tuple[ProcessSpec, ...] = ()


class Topology(Protocol):
    """Lays out a cluster's processes."""

    def processes(self, address: Address, place: Workplace, drain_seconds: float) -> Processes:
        """What to start so that the cluster serves at `address`."""
        ...


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What every process that computes is told.

    Attributes:
        model: directory in the published diffusers layout.
        dtype: type the weights compute in, for example "float32".
        device: torch device, for example "cpu" or "cuda:0".
        threads: torch threads of each process.
    """

    model: Path
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1

    def flags(self) -> tuple[str, ...]:
        """As command-line flags."""
        return (
            *("--model", str(self.model.absolute())),
            *("--dtype", self.dtype),
            *("--device", self.device),
            *("--threads", str(self.threads)),
        )


@dataclass(frozen=True, slots=True)
class SplitTopology:
    """Four processes: a gateway and a service per stage, with unix sockets between them."""

    options: ModelOptions

    def processes(self, address: Address, place: Workplace, drain_seconds: float) -> Processes:
        """See Topology."""
        common = _common_flags(drain_seconds)
        shared = ("--store", place.store_url, "--cluster-secret-file", str(place.secret_file))
        stages = tuple(
            ProcessSpec(
                stage,
                (
                    *_python(f"{stage}_service", "--listen", place.socket(stage)),
                    *(*self.options.flags(), *shared, *common),
                ),
            )
            for stage in STAGES
        )
        doors = (flag for stage in STAGES for flag in (f"--{stage}", place.socket(stage)))
        command = (*_python("services.gateway", "--listen", str(address)), *doors, *common)
        return Processes(ProcessSpec("gateway", command), stages)


@dataclass(frozen=True, slots=True)
class FusedTopology:
    """One process: the same stages without sockets between them."""

    options: ModelOptions

    def processes(self, address: Address, place: Workplace, drain_seconds: float) -> Processes:
        """See Topology; the one process keeps its tensors to itself."""
        command = (
            *_python("services.fused", "--listen", str(address)),
            *(*self.options.flags(), *_common_flags(drain_seconds)),
        )
        return Processes(ProcessSpec("fused", command))


def _python(module: str, *flags: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *flags)


def _common_flags(drain_seconds: float) -> tuple[str, ...]:
    return (
        *("--drain-seconds", f"{drain_seconds:g}"),
        *("--exit-with-parent", str(os.getpid())),
        *("--log-format", "json"),
        *("--log-level", "info"),
    )
