"""Which processes make up a cluster, and what each is told."""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from triptych.cluster.address import Address
from triptych.cluster.workplace import Workplace
from triptych.domain.parallel import ONE_RANK, ParallelDegrees
from triptych.launcher.command import Command
from triptych.launcher.launcher import LauncherName

_START_PATIENCE_SECONDS: Final = 600.0
FETCH_PATIENCE_SECONDS: Final = 24 * 3600.0
"""How long a cluster may take to start that fetches its models first."""
_KEPT_SECONDS: Final = 24 * 3600.0
STAGES: Final = ("encoder", "denoiser", "vae")
RANK: Final = "denoiser_service.rank"
"""What a denoiser starts itself."""
SPLIT_MODULES: Final = (*(f"{stage}_service" for stage in STAGES), RANK, "services.gateway")
"""All that is run by a split cluster of ours."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process.

    Attributes:
        name: for people and log files.
        module: what is run.
        arguments: what it is told.
        heavy: see Command.
        children: see Command.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    heavy: bool = False
    children: tuple[str, ...] = ()

    def command(self, stdin: int, output: int) -> Command:
        """What starts it, with all it writes going to one descriptor."""
        return Command(
            module=self.module,
            arguments=self.arguments,
            stdin=stdin,
            stdout=output,
            stderr=output,
            heavy=self.heavy,
            children=self.children,
        )


@dataclass(frozen=True, slots=True)
class Processes:
    """The gateway, which is the door, the stages behind it, and what keeps tensors and jobs."""

    gateway: ProcessSpec
    stages: tuple[ProcessSpec, ...] = ()
    servers: tuple[ProcessSpec, ...] = ()

    @property
    def heavy(self) -> tuple[ProcessSpec, ...]:
        """Those that a fork server is worth waiting for."""
        return tuple(each for each in (*self.stages, self.gateway) if each.heavy)


def with_launcher(processes: Processes, launcher: LauncherName) -> Processes:
    """The same processes; those that start others are told how."""
    told = ("--launcher", launcher.value)
    return replace(
        processes,
        stages=tuple(
            replace(each, arguments=(*each.arguments, *told)) if each.children else each
            for each in processes.stages
        ),
    )


class Topology(Protocol):
    """Lays out a cluster's processes."""

    def processes(self, address: Address, place: Workplace, drain_seconds: float) -> Processes:
        """What to start so that the cluster serves at `address`."""
        ...


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What every process that computes is told.

    Attributes:
        models: at least one; a path is a directory in the published diffusers layout, a text a
            repository of the hub that holds one, as org/name or org/name@revision.
        dtype: type the weights compute in, for example "float32".
        device: torch device, for example "cpu" or "cuda:0".
        threads: torch threads of each process.
        offline: whether the hub is never asked, only its cache.
        cache_profiles: files, one for each model in their order; none for those that lie in the
            models' directories.
        manifests: files, one for each model in their order, with the SHA-256 of its files; none to
            take the models as they are.
        degrees: of each model's denoiser: how many ranks it has, and how they share steps.
        conditioning_cache: what is remembered of encoded prompts and pictures, for example "1GiB"
            or "0"; the encoders' own default if None.
        tiling: whether VAEs work on large pictures in tiles.
        attention_backend: of diffusers, for the denoisers' attention; its default if None.
        compile_blocks: whether denoisers' blocks are compiled.
    """

    models: tuple[Path | str, ...]
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    offline: bool = False
    cache_profiles: tuple[Path, ...] = ()
    manifests: tuple[Path, ...] = ()
    degrees: ParallelDegrees = ONE_RANK
    conditioning_cache: str | None = None
    tiling: bool = False
    attention_backend: str | None = None
    compile_blocks: bool = False

    @property
    def fetched(self) -> tuple[str, ...]:
        """The models of which files may have to come from the hub first."""
        return () if self.offline else tuple(each for each in self.models if isinstance(each, str))

    def flags(self, *models: Path | str) -> tuple[str, ...]:
        """As command-line flags of a process that holds these of the models."""
        return (
            *(flag for model in models for flag in ("--model", _named(model))),
            *(("--offline", "true") if self.offline else ()),
            *("--dtype", self.dtype),
            *("--device", self.device),
            *("--threads", str(self.threads)),
        )

    def manifest_flags(self, number: int) -> tuple[str, ...]:
        """Further ones of each process that loads one of the models, counted from 0."""
        return _file_flags("--model-manifest", self.manifests[number : number + 1])

    @property
    def encoding_flags(self) -> tuple[str, ...]:
        """Further ones of each process that encodes."""
        if self.conditioning_cache is None:
            return ()
        return ("--conditioning-cache-bytes", self.conditioning_cache)

    @property
    def decoding_flags(self) -> tuple[str, ...]:
        """Further ones of each process that decodes."""
        return ("--tiling", "true") if self.tiling else ()

    @property
    def kernel_flags(self) -> tuple[str, ...]:
        """Further ones of each process that denoises."""
        backend = self.attention_backend
        return (
            *(() if backend is None else ("--attention-backend", backend)),
            *(("--compile-blocks", "true") if self.compile_blocks else ()),
        )

    def denoiser_flags(self, number: int) -> tuple[str, ...]:
        """Further ones of the process that denoises for one of the models, counted from 0."""
        return (
            *_file_flags("--cache-profile", self.cache_profiles[number : number + 1]),
            *(
                flag
                for method, degree in asdict(self.degrees).items()
                if degree > 1
                for flag in (f"--{method}", str(degree))
            ),
            *self.kernel_flags,
        )


@dataclass(frozen=True, slots=True)
class SplitTopology:
    """A gateway, and a service per stage of each model, with unix sockets between them."""

    options: ModelOptions

    def processes(self, address: Address, place: Workplace, drain_seconds: float) -> Processes:
        """See Topology. What belongs to the second model is called `encoder-2`, and so on."""
        common = _common_flags(drain_seconds)
        shared = ("--store", place.store_url, "--cluster-secret-file", str(place.secret_file))
        stages = []
        doors: list[str] = []
        for number, model in enumerate(self.options.models, start=1):
            for stage in STAGES:
                name = stage if number == 1 else f"{stage}-{number}"
                door = ("--listen", place.socket(name))
                flags = self.options.flags(model) + self.options.manifest_flags(number - 1)
                if stage == "denoiser":
                    flags += self.options.denoiser_flags(number - 1)
                else:
                    flags += self.options.encoding_flags
                if stage == "vae":
                    flags += self.options.decoding_flags
                told = (*door, *flags, *shared, *common)
                children = (RANK,) if stage == "denoiser" else ()
                stages.append(ProcessSpec(name, f"{stage}_service", told, True, children))
                doors += [f"--{stage}", place.socket(name)]
        # Ready means all of it: a user who is told so may ask for any of the models.
        patience = FETCH_PATIENCE_SECONDS if self.options.fetched else _START_PATIENCE_SECONDS
        doors += ["--start-patience-seconds", f"{patience:g}"]
        doors += ["--cluster-secret-file", str(place.secret_file)]
        told = ("--listen", str(address), *doors, *_state_flags(place), *common)
        gateway = ProcessSpec("gateway", "services.gateway", told)
        return Processes(gateway, tuple(stages), (*_store(place), *ledger(place)))


@dataclass(frozen=True, slots=True)
class FusedTopology:
    """One process: the same stages, of all models, without sockets between them."""

    options: ModelOptions

    def processes(self, address: Address, place: Workplace, drain_seconds: float) -> Processes:
        """See Topology; the one process keeps its tensors to itself."""
        told = (
            *("--listen", str(address)),
            *self.options.flags(*self.options.models),
            *self.options.encoding_flags,
            *self.options.decoding_flags,
            *self.options.kernel_flags,
            *_file_flags("--model-manifest", self.options.manifests),
            *_file_flags("--cache-profile", self.options.cache_profiles),
            *_state_flags(place),
            *_common_flags(drain_seconds),
        )
        fused = ProcessSpec("fused", "services.fused", told, heavy=True)
        return Processes(fused, servers=ledger(place))


def _store(place: Workplace) -> tuple[ProcessSpec, ...]:
    if place.store_socket is None:
        return ()
    return (_valkey("store", place.store_socket),)


def ledger(place: Workplace) -> tuple[ProcessSpec, ...]:
    """The server of the jobs' ledger, if jobs outlive the cluster."""
    if place.state is None:
        return ()
    return (_valkey("ledger", place.ledger_socket, place.state.jobs),)


def _valkey(name: str, *paths: Path) -> ProcessSpec:
    return ProcessSpec(name, "triptych.cluster.valkey", (str(os.getpid()), *map(str, paths)))


def _state_flags(place: Workplace) -> tuple[str, ...]:
    """Of the process that takes requests."""
    if place.state is None:
        return ()
    return (
        *("--jobs", place.jobs_url),
        *("--artifacts", place.state.artifacts_url),
        # As long as the job can be asked about that they came of.
        *("--artifact-ttl-seconds", f"{_KEPT_SECONDS:g}"),
        *("--job-ttl-seconds", f"{_KEPT_SECONDS:g}"),
    )


def _named(model: Path | str) -> str:
    return model if isinstance(model, str) else str(model.absolute())


def _file_flags(flag: str, files: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(part for file in files for part in (flag, str(file.absolute())))


def _common_flags(drain_seconds: float) -> tuple[str, ...]:
    return (
        *("--drain-seconds", f"{drain_seconds:g}"),
        *("--exit-with-parent", str(os.getpid())),
        *("--log-format", "json"),
        *("--log-level", "info"),
    )
