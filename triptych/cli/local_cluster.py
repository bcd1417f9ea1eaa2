"""What the commands that start a cluster on this machine have in common."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import typer

from triptych.cluster.errors import ClusterConfigurationError
from triptych.cluster.topology import FusedTopology, ModelOptions, SplitTopology, Topology

DEMO_MODEL: Final = Path("models/demo")


class TopologyName(StrEnum):
    """How the stages are spread over processes."""

    SPLIT = "split"
    FUSED = "fused"


class DTypeName(StrEnum):
    """Types that weights may compute in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def checked_model_directory(model: Path | None) -> Path:
    """The model's directory; models/demo if none is given and it is there.

    Raises:
        typer.BadParameter: there is no such directory.
    """
    if model is None:
        if DEMO_MODEL.is_dir():
            return DEMO_MODEL
        raise typer.BadParameter(
            f"there is no {DEMO_MODEL} here to fall back on; give a directory in the published"
            " diffusers layout (one with a model_index.json)",
            param_hint="--model",
        )
    if not model.is_dir():
        raise typer.BadParameter(
            f"{model} is not a directory; a cluster on this machine needs a model directory"
            " in the published diffusers layout",
            param_hint="--model",
        )
    return model


def checked_topology(name: TopologyName, options: ModelOptions) -> Topology:
    """The topology of that name.

    Raises:
        ClusterConfigurationError: what the stages need is not installed.
    """
    if find_spec("torch") is None:
        raise ClusterConfigurationError(
            "computing on this machine needs the stages' packages: pip install 'triptych[stages]';"
            " a running cluster needs only --target"
        )
    return SplitTopology(options) if name is TopologyName.SPLIT else FusedTopology(options)
