"""The arguments of `triptych generate`."""

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.local_cluster import DTypeName, TopologyName
from triptych.cli.output_file import checked_output

_REQUEST = "What to draw (the model's defaults apply to what is left out)"

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="File to write, .png.", callback=checked_output),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Cluster to ask; without it, one is started for this call."
    ),
]
ModelNameOrDirectory = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="With --target: a served model's name; may be left out where only one is served."
        " Without: a model's directory; models/demo, if it is there, by default.",
    ),
]
Width = Annotated[int | None, typer.Option(help="In pixels.", rich_help_panel=_REQUEST)]
Height = Annotated[int | None, typer.Option(help="In pixels.", rich_help_panel=_REQUEST)]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.", rich_help_panel=_REQUEST)]
Guidance = Annotated[
    float | None,
    typer.Option(help="How closely to follow the prompt.", rich_help_panel=_REQUEST),
]
Negative = Annotated[
    str | None,
    typer.Option(
        help="What not to draw, for models that have such guidance.", rich_help_panel=_REQUEST
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Same seed, same picture; drawn if left out.", rich_help_panel=_REQUEST),
]
DType = Annotated[
    DTypeName | None,
    typer.Option(
        help="Type to compute in; a running cluster that computes in another refuses.",
        rich_help_panel=_REQUEST,
    ),
]
Timeout = Annotated[float, typer.Option(help="Seconds the generation may take.")]
Topology = Annotated[
    TopologyName | None,
    typer.Option(
        help="Without --target only. split: a process per stage and a gateway (the default);"
        " fused: everything in one process.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and no progress.")]
