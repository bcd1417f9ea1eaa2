"""The arguments of the commands that measure caches: `triptych calibrate` and `triptych tune`."""

from pathlib import Path
from typing import Annotated

import typer

_DRAWN = "What is drawn (the model's defaults apply to what is left out)"

Model = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|ORG/NAME[@REVISION]",
        help="Model to measure, a directory or a repository of the hub; models/demo, if it is"
        " there, by default.",
    ),
]
ModelManifest = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="SHA-256 of the model's files, made by triptych manifest; other files are refused.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        readable=True,
        help="Text file with a prompt on each line; four that come along by default.",
        rich_help_panel=_DRAWN,
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
        help="Picture that every prompt starts from. Repeat it for several, in order.",
        rich_help_panel=_DRAWN,
    ),
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.", rich_help_panel=_DRAWN)]
Width = Annotated[int | None, typer.Option(help="In pixels.", rich_help_panel=_DRAWN)]
Height = Annotated[int | None, typer.Option(help="In pixels.", rich_help_panel=_DRAWN)]
Guidance = Annotated[
    float | None, typer.Option(help="How closely to follow the prompts.", rich_help_panel=_DRAWN)
]
Frames = Annotated[int | None, typer.Option(help="Frames of videos.", rich_help_panel=_DRAWN)]
