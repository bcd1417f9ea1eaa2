"""The arguments of `triptych up`."""

from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from triptych.cli.local_cluster import DTypeName, TopologyName
from triptych.launcher.launcher import LauncherName

OFF: Final = "off"

_SIZE = TypeAdapter(Annotated[ByteSize, Field(ge=0)])


def _checked_size(size: str | None) -> str | None:
    if size is not None:
        try:
            _SIZE.validate_python(size)
        except ValidationError as error:
            raise typer.BadParameter(
                f"is {size!r}; allowed is a number of bytes, or one with a unit as in 512MiB"
            ) from error
    return size


def _checked_state(state: str | None) -> str | None:
    if state == "":
        raise typer.BadParameter(f"is empty; allowed is a directory, or {OFF}")
    return state


ModelDirectories = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="DIR|ORG/NAME[@REVISION]",
        help="Model to serve, a directory in the published diffusers layout or a repository of the"
        " hub; models/demo, if it is there, by default. Repeat it for several models.",
    ),
]
Topology = Annotated[
    TopologyName,
    typer.Option(
        help="split: a process per stage and a gateway; fused: everything in one process."
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Tensor store the stages share, for example shm:///dev/shm/tensors or"
        " redis://127.0.0.1:6379; redis alone starts a Valkey server for it; a fresh one in memory"
        " by default. Split only.",
    ),
]
State = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|off",
        callback=_checked_state,
        help="Where jobs and their artifacts outlive the cluster, for one cluster at a time; off"
        " for nowhere. By default a directory of the port, triptych/PORT in XDG_STATE_HOME or"
        " ~/.local/state; with port 0, off.",
    ),
]
Listen = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Where to serve; port 0 for any that is free.")
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Serve metrics for Prometheus: the gateway's here, those of the other processes at"
        " the ports after it; port 0 for any that are free.",
    ),
]
OtlpEndpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Push metrics and traces to an OpenTelemetry collector there, for example"
        " http://127.0.0.1:4317 (OTLP over gRPC).",
    ),
]
DType = Annotated[DTypeName, typer.Option(help="Type the weights compute in.")]
Device = Annotated[str, typer.Option(help="Torch device, for example cpu or cuda:0.")]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads of each process.")]
CacheProfiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--cache-profile",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="TeaCache coefficients and default cache of a model, made by triptych calibrate and"
        " triptych tune; cache_profile.json in the model's directory, if it is there, by default."
        " With several models, one for each, in their order.",
    ),
]
ModelManifests = Annotated[
    list[Path] | None,
    typer.Option(
        "--model-manifest",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="SHA-256 of a model's files, made by triptych manifest; a model with other files is"
        " refused. With several models, one for each, in their order.",
    ),
]
ConditioningCache = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        callback=_checked_size,
        help="What is remembered of encoded prompts and pictures, for example 1GiB; 0 to encode"
        " everything anew; 256MiB by default.",
    ),
]
Tiling = Annotated[
    bool,
    typer.Option(
        "--tiling",
        help="Encode and decode pictures larger than a tile in tiles that are blended: less memory,"
        " other pixels.",
    ),
]
AttentionBackend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="One of diffusers' attention backends, for example flash, for denoisers of one rank:"
        " other last bits.",
    ),
]
CompileBlocks = Annotated[
    bool,
    typer.Option(
        "--compile-blocks",
        help="Compile the transformers' blocks at their first call, for denoisers of one rank:"
        " other last bits.",
    ),
]
Ulysses = Annotated[
    int,
    typer.Option(
        min=1,
        max=64,
        help="Ranks that exchange parts of the sequence for attention heads; divides the model's"
        " heads. A denoiser's ranks are the product of the three degrees. Split only.",
    ),
]
Ring = Annotated[
    int, typer.Option(min=1, max=64, help="Ranks round which keys and values go. Split only.")
]
Cfg = Annotated[
    int,
    typer.Option(
        min=1, max=64, help="Ranks that run guidance branches at the same time. Split only."
    ),
]
Launcher = Annotated[
    LauncherName,
    typer.Option(
        help="fork: stages and ranks start from one process that has imported what they need, and"
        " stays for those that start later; exec: each with an interpreter of its own."
    ),
]
LogDirectory = Annotated[
    Path | None,
    typer.Option(
        "--log-dir",
        metavar="DIR",
        help="Where each process's log goes and stays; by default logs end with the cluster.",
    ),
]
