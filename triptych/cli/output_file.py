"""What will be written where, checked before anything is started for it."""

import os
from pathlib import Path
from typing import Final

import typer

from triptych.domain.model import MediaFormat

SUFFIXES: Final = {
    ".png": MediaFormat.PNG,
    ".jpg": MediaFormat.JPEG,
    ".jpeg": MediaFormat.JPEG,
    ".webp": MediaFormat.WEBP,
    ".mp4": MediaFormat.MP4,
    ".zip": MediaFormat.PNG_ARCHIVE,
}


def checked_format(asked: MediaFormat | None, path: Path) -> MediaFormat:
    """The format that a checked output's suffix stands for.

    Raises:
        typer.BadParameter: another one was asked for.
    """
    written = SUFFIXES[path.suffix.lower()]
    if asked not in {None, written}:
        suffixes = ", ".join(f"{each} in {suffix}" for suffix, each in SUFFIXES.items())
        raise typer.BadParameter(
            f"is {asked}, but {path} ends in {path.suffix!r}; files end so: {suffixes}",
            param_hint="--format",
        )
    return written


def check_suffix(path: Path, drawn: MediaFormat) -> None:
    """Checks that a file's name says what will be in it.

    Raises:
        typer.BadParameter: it does not.
    """
    if SUFFIXES[path.suffix.lower()] != drawn:
        suffixes = " or ".join(suffix for suffix, each in SUFFIXES.items() if each == drawn)
        raise typer.BadParameter(
            f"{path} ends in {path.suffix!r}, but what was drawn is {drawn}: {suffixes}",
            param_hint="--output",
        )


def checked_output(path: Path | None) -> Path | None:
    """The path, if there is one and a result can be written there.

    Raises:
        typer.BadParameter: it cannot; the message says why.
    """
    if path is None:
        return None
    if path.suffix.lower() not in SUFFIXES:
        allowed = ", ".join(SUFFIXES)
        raise typer.BadParameter(f"{path} ends in {path.suffix!r}; allowed are {allowed}")
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"the directory {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"the directory {path.parent} is not writable")
    return path
