"""Runs a process that measures: this one never loads what computes."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from triptych.cli.exit_codes import ExitCode
from triptych.cli.failure import reported_failures
from triptych.cli.interruptible import run
from triptych.cli.local_cluster import check_stages_installed
from triptych.launcher.command import Command
from triptych.launcher.fork_launcher import ForkLauncher

_LOG_FLAGS = ("--log-format", "console", "--log-level", "warning")


def measure(module: str, values: Mapping[str, object], images: Sequence[Path] | None) -> None:
    """Runs a module of the stages' packages to its end; what it writes is the command's own.

    Args:
        module: what is run.
        values: its flags by name; those that are None are left out.
        images: pictures that every prompt starts from.

    Raises:
        typer.Exit: it did not end well.
    """
    flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
    flags += [f"--image={each}" for each in images or ()]
    with reported_failures():
        check_stages_installed()
        code = run(_run(module, *flags))
    if code:
        known = code in {ExitCode.USAGE, ExitCode.UNEXPECTED}
        raise typer.Exit(code if known else ExitCode.UNEXPECTED)


async def _run(module: str, *flags: str) -> int:
    ends = ("--exit-with-parent", str(os.getpid()))
    nothing = os.open(os.devnull, os.O_RDONLY)
    launcher = ForkLauncher([module])
    try:
        # Light: it is the only one, and a server of its own would gain nothing.
        command = Command(module=module, arguments=(*flags, *ends, *_LOG_FLAGS), stdin=nothing)
        process = await launcher.launch(command)
        try:
            return await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
    finally:
        os.close(nothing)
        await launcher.close()
