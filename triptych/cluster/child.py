"""One life of one process."""

import asyncio
import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from triptych.cluster.errors import ClusterConfigurationError
from triptych.cluster.topology import ProcessSpec
from triptych.launcher.launcher import Launcher
from triptych.launcher.process import LaunchedProcess

# What a machine may have again in a moment.
_LACKING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_KILL_SECONDS = 5.0
_SHOWN_LINES = 5
_SHOWN_BYTES = 16_384


class LackingResources(Exception):
    """A process cannot be started now, for want of memory, processes or descriptors."""


class Child:
    """A running process, the leader of its own group, so that Ctrl-C reaches only its starter."""

    def __init__(self, process: LaunchedProcess, log: Path, log_offset: int) -> None:
        self._process = process
        self._log = log
        self._log_offset = log_offset
        self._started = time.monotonic()
        self._group_ended = False

    @classmethod
    async def start(cls, spec: ProcessSpec, log: Path, launcher: Launcher) -> Self:
        """Starts it, with all it writes appended to `log`.

        Raises:
            LackingResources: it may be started in a moment.
            ClusterConfigurationError: there is no such program, or the log cannot be written.
        """
        try:
            with log.open("ab") as sink, _nothing() as nothing:
                # Before the start: afterwards the two share one position.
                log_offset = sink.tell()
                process = await launcher.launch(spec.command(nothing, sink.fileno()))
        except OSError as error:
            if error.errno in _LACKING:
                raise LackingResources(error.strerror) from error
            raise ClusterConfigurationError(
                f"cannot start the {spec.name}: {error.strerror}: {error.filename}"
            ) from error
        return cls(process, log, log_offset)

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    @property
    def lifetime_seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._started

    async def wait(self) -> int:
        """Its exit code, negative for the signal that killed it; ends what it left in its group."""
        code = await self._process.wait()
        self._end_group()
        return code

    async def end(self, grace_seconds: float) -> bool:
        """Asks it to end, waits so long, then kills it; returns whether nothing of it runs."""
        try:
            if self._process.poll() is None:
                self._process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), grace_seconds)
        finally:
            # Also when this is cancelled: a second Ctrl-C means now.
            self._end_group()
            collected = asyncio.create_task(self._process.wait())
            # A process in an uninterruptible sleep is not waited for: it may never end.
            ended, _ = await asyncio.wait([collected], timeout=_KILL_SECONDS)
        return bool(ended)

    def last_lines(self, *, messages_only: bool = False) -> str:
        """The end of what this life wrote.

        Args:
            messages_only: leaves structured log lines out, unless there is nothing else.
        """
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_offset, size - _SHOWN_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        messages = [line for line in lines if not line.startswith("{")]
        shown = messages if messages_only and messages else lines
        return "\n".join(shown[-_SHOWN_LINES:])

    def _end_group(self) -> None:
        # Once only: later the number may belong to somebody else.
        if not self._group_ended:
            self._group_ended = True
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


def describe_exit(code: int) -> str:
    """For example "exited with code 1" or "was killed by SIGKILL"."""
    return f"exited with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"


@contextmanager
def _nothing() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
