"""What the commands that start a cluster on this machine have in common."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from triptych.cluster.cluster import ClusterSpec
from triptych.cluster.errors import ClusterConfigurationError
from triptych.cluster.topology import (
    FETCH_PATIENCE_SECONDS,
    FusedTopology,
    ModelOptions,
    SplitTopology,
    Topology,
)

DEMO_MODEL: Final = Path("models/demo")

# Loosely: what exactly a repository may be called, those say who open it.
_HUB_MODEL = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\S+)?", re.ASCII)

Offline = Annotated[
    bool,
    typer.Option("--offline", help="Never ask the hub: models from there must be in its cache."),
]


class TopologyName(StrEnum):
    """How the stages are spread over processes."""

    SPLIT = "split"
    FUSED = "fused"


class DTypeName(StrEnum):
    """Types that weights may compute in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def checked_model(model: str | None) -> Path | str:
    """The model's directory, or else its name on the hub.

    Args:
        model: what the user calls it; None for models/demo, if that is there.

    Raises:
        typer.BadParameter: it is neither.
    """
    if model is None:
        if DEMO_MODEL.is_dir():
            return DEMO_MODEL
        raise typer.BadParameter(
            f"there is no {DEMO_MODEL} here to fall back on; give a directory in the published"
            " diffusers layout (one with a model_index.json), or org/name of a model on the hub",
            param_hint="--model",
        )
    if Path(model).is_dir():
        return Path(model)
    if _HUB_MODEL.fullmatch(model):
        return model
    raise typer.BadParameter(
        f"{model} is not a directory; a cluster on this machine needs a model directory"
        " in the published diffusers layout, or org/name or org/name@revision of a model on the"
        " hub",
        param_hint="--model",
    )


def check_names(models: Sequence[Path | str]) -> None:
    """Refuses two models that requests could not tell apart.

    Raises:
        ClusterConfigurationError: they would be called the same.
    """
    named: dict[str, Path | str] = {}
    for model in models:
        name = _name(model)
        if name in named:
            raise ClusterConfigurationError(
                f"{named[name]} and {model} would both be served as {name}; rename one of the"
                ' directories, or name it in a triptych.json: {"name": "another"}'
            )
        named[name] = model


def _name(model: Path | str) -> str:
    """What requests call a model."""
    if isinstance(model, str):
        return model.partition("@")[0].rpartition("/")[2]
    # Whatever else is wrong with it is for the stages to say.
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        if name := json.loads((model / "triptych.json").read_bytes()).get("name"):
            return str(name)
    return model.resolve().name


def checked_topology(name: TopologyName, options: ModelOptions) -> Topology:
    """The topology of that name.

    Raises:
        ClusterConfigurationError: what the stages need is not installed.
    """
    check_stages_installed()
    return SplitTopology(options) if name is TopologyName.SPLIT else FusedTopology(options)


def check_stages_installed() -> None:
    """Refuses to compute on a machine that lacks what it takes.

    Raises:
        ClusterConfigurationError: what the stages need is not installed.
    """
    if find_spec("torch") is None:
        raise ClusterConfigurationError(
            "computing on this machine needs the stages' packages: pip install 'triptych[stages]';"
            " a running cluster needs only --target"
        )


def patient(spec: ClusterSpec, options: ModelOptions) -> ClusterSpec:
    """The same cluster, with time to fetch its models if it has to."""
    return replace(spec, ready_seconds=FETCH_PATIENCE_SECONDS) if options.fetched else spec
