"""The arguments of `triptych generate`."""

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli.local_cluster import DTypeName, TopologyName
from triptych.cli.output_file import checked_output
from triptych.domain.deadline import checked_timeout
from triptych.domain.generation import RequestOptions
from triptych.domain.model import MediaFormat
from triptych.domain.output_options import OutputOptions

_REQUEST = "What to draw (the model's defaults apply to what is left out)"


def checked_seconds(seconds: float | None) -> float | None:
    """Seconds as gRPC can count them.

    Raises:
        typer.BadParameter: they are negative, or not a number.
    """
    try:
        return None if seconds is None else checked_timeout(seconds)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Prompt = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT", help='What to draw, or how to edit a picture; "" with --caption-image.'
    ),
]
_OUTPUT = typer.Option(
    "--output",
    "-o",
    help="File to write: .png, .jpg, .webp, .mp4 (videos) or .zip (layers or frames as PNG"
    " files). Of several, name-1.png, name-2.png and so on.",
    callback=checked_output,
)
Output = Annotated[Path, _OUTPUT]
OutputUnlessDetached = Annotated[Path | None, _OUTPUT]
Receipt = Annotated[
    Path | None,
    typer.Option(
        "--receipt",
        dir_okay=False,
        help="File to write what the result depends on to, for `triptych replay`.",
    ),
]
Format = Annotated[
    MediaFormat | None,
    typer.Option("--format", help="What to write; the output's suffix says it as well."),
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
        metavar="NAME|DIR|ORG/NAME",
        help="With --target: a served model's name; may be left out where only one is served."
        " Without: a model's directory, or org/name[@revision] on the hub; models/demo, if it is"
        " there, by default.",
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        readable=True,
        help="Picture to start from, PNG, JPEG or WebP. Repeat it for several, in order.",
        rich_help_panel=_REQUEST,
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
NumImages = Annotated[
    int | None,
    typer.Option(
        help="How many, with the seeds SEED, SEED + 1 and so on.", rich_help_panel=_REQUEST
    ),
]
Quality = Annotated[
    int | None, typer.Option(help="Of JPEG and WebP, 1 to 100.", rich_help_panel=_REQUEST)
]
CompressionLevel = Annotated[
    int | None,
    typer.Option(help="Of PNG, 0 (fast) to 9 (small).", rich_help_panel=_REQUEST),
]
DType = Annotated[
    DTypeName | None,
    typer.Option(
        help="Type to compute in; a running cluster that computes in another refuses.",
        rich_help_panel=_REQUEST,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        help="Seconds the generation may take, or what a detached one is asked.",
        callback=checked_seconds,
    ),
]
Wait = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="How long a cluster that is starting is waited for; with --target.",
    ),
]
Topology = Annotated[
    TopologyName | None,
    typer.Option(
        help="Without --target only. split: a process per stage and a gateway (the default);"
        " fused: everything in one process.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and no progress.")]


def results(
    seed: int | None, num_images: int | None, quality: int | None, level: int | None
) -> RequestOptions:
    """How many results, from which seed on, and how each is compressed."""
    output = OutputOptions(quality=quality, compression_level=level)
    return {
        "seed": seed,
        "num_images": num_images,
        "output": output if output.given else None,
    }
