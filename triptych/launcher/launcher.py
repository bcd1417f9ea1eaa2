"""Starts processes: the port, and the plain way."""

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from triptych.launcher.command import Command
from triptych.launcher.process import LaunchedProcess


class LauncherName(StrEnum):
    """How processes are started."""

    EXEC = "exec"
    FORK = "fork"


class Launcher(Protocol):
    """Starts processes as children of this one."""

    async def launch(self, command: Command) -> LaunchedProcess:
        """Starts a process.

        Raises:
            OSError: it cannot be started.
        """
        ...

    async def close(self) -> None:
        """Ends what the launcher keeps for itself; what it started goes on."""
        ...


class ExecLauncher:
    """A new interpreter for each process, which imports for itself what it needs."""

    async def launch(self, command: Command) -> LaunchedProcess:
        """See Launcher."""
        return executed(command)

    async def close(self) -> None:
        """Nothing is kept."""


def executed(command: Command) -> LaunchedProcess:
    """Starts a process by exec.

    Raises:
        OSError: there is no such program, or no room for another process.
    """
    given = {**dict(enumerate(command.standard)), **{each: each for each in command.descriptors}}
    pid = os.posix_spawn(
        sys.executable,
        # Whatever lies in the user's directory, a queue.py or a services/, is none of ours to run.
        [sys.executable, "-P", "-m", command.module, *command.arguments],
        environment(command),
        file_actions=[
            *((os.POSIX_SPAWN_DUP2, source, target) for target, source in given.items()),
            *((os.POSIX_SPAWN_CLOSE, other) for other in _inheritable() - given.keys()),
        ],
        # The terminal's Ctrl-C reaches only its starter.
        setsid=True,
        # What Python ignores and others do not expect to be.
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )
    return LaunchedProcess(pid)


def _inheritable() -> set[int]:
    """What this process got from its own starter and would pass on."""
    found = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    inheritable = set()
    for descriptor in found:
        # The directory's own is closed by now.
        with suppress(OSError):
            if os.get_inheritable(descriptor):
                inheritable.add(descriptor)
    return inheritable


def environment(command: Command) -> Mapping[str, str]:
    """All variables of a process."""
    passed_on = os.environ  # noqa: TID251 - not read
    # As -P, for what the process starts itself.
    return {**passed_on, "PYTHONSAFEPATH": "1", **command.variables}
