"""Where a picture will be written, checked before anything is started for it."""

import os
from pathlib import Path

import typer

SUFFIXES = (".png",)


def checked_output(path: Path) -> Path:
    """The path, if a picture can be written there.

    Raises:
        typer.BadParameter: it cannot; the message says why.
    """
    if path.suffix.lower() not in SUFFIXES:
        allowed = ", ".join(SUFFIXES)
        raise typer.BadParameter(f"{path} ends in {path.suffix!r}; allowed is {allowed}")
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"the directory {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"the directory {path.parent} is not writable")
    return path
