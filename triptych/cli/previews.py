"""Where `triptych generate` shows what a request is heading for."""

import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.color import Color
from rich.style import Style
from rich.text import Text

from triptych.domain.events import Preview

_PANEL = "Previews"
_COLUMNS, _ROWS = 48, 48

PreviewEvery = Annotated[
    int | None,
    typer.Option(
        "--preview-every",
        metavar="STEPS",
        help="Show a small picture of what is being drawn after every so many steps.",
        rich_help_panel=_PANEL,
    ),
]
PreviewDirectory = Annotated[
    Path | None,
    typer.Option(
        "--preview-dir",
        metavar="DIR",
        exists=True,
        file_okay=False,
        writable=True,
        help="Write them there, as step-0005.png and so on; those of a second picture as"
        " step-0005-2.png.",
        rich_help_panel=_PANEL,
    ),
]


def check_shown(every: int | None, directory: Path | None, *, displayed: bool) -> None:
    """Checks that previews that are asked for are seen, and that those to be written are asked for.

    Raises:
        typer.BadParameter: they are not.
    """
    if directory is not None and not every:
        raise typer.BadParameter(
            "has no effect without --preview-every", param_hint="--preview-dir"
        )
    if every and directory is None and not displayed:
        raise typer.BadParameter(
            "there is no terminal to show previews on; say with --preview-dir where to write them",
            param_hint="--preview-every",
        )


class PreviewFiles:
    """Writes previews; one that cannot be written is told once and costs nothing else."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def write(self, preview: Preview) -> None:
        """Writes one, if any are to be written."""
        if self._directory is None:
            return
        try:
            which = f"-{preview.image_index + 1}" if preview.image_index else ""
            preview.save(self._directory / f"step-{preview.step:04}{which}.png")
        except OSError as error:
            self._directory = None
            sys.stderr.write(f"previews are not written any more: {error}\n")


def in_half_blocks(data: bytes) -> Text | None:
    """A PNG picture in characters, two pixels high each; None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    picture.thumbnail((_COLUMNS, _ROWS))
    # Characters are made of pairs of rows.
    picture = picture.resize((picture.width, picture.height + picture.height % 2))
    lines = []
    for row in range(0, picture.height, 2):
        line = Text()
        for column in range(picture.width):
            upper, lower = (_colour(picture, column, each) for each in (row, row + 1))
            line.append("\N{UPPER HALF BLOCK}", Style(color=upper, bgcolor=lower))
        lines.append(line)
    return Text("\n").join(lines)


def _colour(picture: Image.Image, column: int, row: int) -> Color:
    pixel = picture.getpixel((column, row))
    assert isinstance(pixel, tuple)
    return Color.from_rgb(*pixel)
