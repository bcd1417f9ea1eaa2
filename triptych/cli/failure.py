"""Turns what went wrong into a message and an exit code, once."""

from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from triptych.cli.exit_codes import ExitCode, exit_code_of
from triptych.cluster.errors import ClusterError
from triptych.errors import InvalidRequestError, TriptychError


@contextmanager
def reported_failures() -> Iterator[None]:
    """Ends the command with a message on stderr when the block fails in a way that has a name."""
    try:
        yield
    except InvalidRequestError as error:
        refused = [f"  {each.field} {each.description}" for each in error.violations]
        _fail("\n".join(["the request was refused:", *(refused or [f"  {error}"])]), error)
    except TriptychError as error:
        _fail(f"{error}{_advice(error)}", error)
    except ClusterError as error:
        _fail(str(error), error)
    except OSError as error:
        typer.echo(f"triptych: {error.filename}: {error.strerror}", err=True)
        raise typer.Exit(ExitCode.UNEXPECTED) from error
    except CancelledError:
        typer.echo("triptych: cancelled", err=True)
        raise typer.Exit(ExitCode.CANCELLED) from None


def _fail(message: str, error: TriptychError | ClusterError) -> None:
    typer.echo(f"triptych: {message}", err=True)
    raise typer.Exit(exit_code_of(error)) from error


def _advice(error: TriptychError) -> str:
    if error.retry_after_seconds is None:
        return ""
    return f"; try again in {error.retry_after_seconds:.0f} s"
