"""`triptych manifest`."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from triptych.whole_file import write_whole


def manifest(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Model directory; of a model from the hub, its snapshot in the cache.",
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            dir_okay=False,
            help="File to write; stdout by default.",
        ),
    ] = None,
) -> None:
    """Write the SHA-256 of a model's files, as sha256sum does, for --model-manifest."""
    lines = [
        f"{_sha256(file)}  {file.relative_to(model).as_posix()}\n"
        for file in _files(model)
        if output is None or file.resolve() != output.resolve()
    ]
    if not lines:
        raise typer.BadParameter(f"{model} holds no files", param_hint="DIR")
    text = "".join(lines)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_whole(output, text.encode())
    typer.echo(f"{output}: {len(lines)} files")


def _files(model: Path) -> Iterator[Path]:
    for file in sorted(model.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(model).parts)
        if file.is_file() and not hidden:
            if {"\n", "\\"} & set(str(file)):
                raise typer.BadParameter(
                    f"{str(file)!r} cannot be written in a line", param_hint="DIR"
                )
            yield file


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
