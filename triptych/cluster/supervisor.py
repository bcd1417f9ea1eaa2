"""Keeps one process alive."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from triptych.cluster.backoff import Backoff
from triptych.cluster.child import Child, LackingResources, describe_exit
from triptych.cluster.errors import ClusterConfigurationError, ClusterFailedError
from triptych.cluster.events import (
    ClusterEvent,
    ProcessDied,
    ProcessNotStarted,
    ProcessStarted,
    ProcessStuck,
)
from triptych.cluster.topology import ProcessSpec
from triptych.launcher.launcher import Launcher

CONFIGURATION_EXIT_CODE: Final = 2
"""How a process says that starting it again would change nothing."""


class Supervisor:
    """Starts a process and starts it again when it ends, until told to stop."""

    def __init__(
        self,
        spec: ProcessSpec,
        log: Path,
        *,
        launcher: Launcher,
        backoff: Backoff,
        start_attempts: int,
        on_event: Callable[[ClusterEvent], None],
    ) -> None:
        """Prepares; `start` begins.

        Args:
            spec: what to run.
            log: where everything the process writes goes.
            launcher: starts it.
            backoff: pauses between a death and the next life.
            start_attempts: deaths in a row that are forgiven less one, until `settled` is set.
            on_event: told of every start, of every death, and of what cannot be started or ended.
        """
        self.settled = False
        self._spec = spec
        self._log = log
        self._launcher = launcher
        self._backoff = backoff
        self._start_attempts = start_attempts
        self._on_event = on_event
        self._child: Child | None = None
        self._task: asyncio.Task[NoReturn] | None = None

    @property
    def name(self) -> str:
        """Of the process."""
        return self._spec.name

    @property
    def pid(self) -> int | None:
        """Of the present life; None before the first."""
        return self._child.pid if self._child else None

    def start(self) -> asyncio.Task[NoReturn]:
        """Begins; the task only ever fails, with a ClusterError, or is cancelled."""
        self._task = asyncio.create_task(self._run(), name=f"supervise {self.name}")
        return self._task

    async def stop(self, grace_seconds: float) -> None:
        """Ends the process: asks, waits so long, kills."""
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            if self._child is not None and not await self._child.end(grace_seconds):
                self._on_event(ProcessStuck(self.name, self._child.pid))

    def last_lines(self) -> str:
        """The end of what the present life wrote."""
        return self._child.last_lines() if self._child else ""

    async def _run(self) -> NoReturn:
        while True:
            child = self._child = await self._started()
            self._on_event(ProcessStarted(self.name, child.pid))
            code = await child.wait()
            if code == CONFIGURATION_EXIT_CODE:
                raise ClusterConfigurationError(
                    f"the {self.name} cannot start: {child.last_lines(messages_only=True)}"
                )
            # However long it took: a cluster that never served had no healthy process.
            lifetime_seconds = child.lifetime_seconds if self.settled else 0.0
            pause_seconds = self._backoff.after(lifetime_seconds)
            how = describe_exit(code)
            if self._backoff.failures >= self._start_attempts:
                how = f"{how}, {self._backoff.failures} times in a row{_advice(code)}"
                if not self.settled:
                    raise ClusterFailedError(
                        f"the {self.name} {how}. Its last lines:\n{child.last_lines()}"
                    )
            self._on_event(ProcessDied(self.name, child.pid, how, pause_seconds))
            await asyncio.sleep(pause_seconds)

    async def _started(self) -> Child:
        while True:
            try:
                return await Child.start(self._spec, self._log, self._launcher)
            except LackingResources as error:
                pause_seconds = self._backoff.after(0.0)
                if not self.settled and self._backoff.failures >= self._start_attempts:
                    raise ClusterFailedError(
                        f"the {self.name} cannot be started: {error}"
                    ) from error
                self._on_event(ProcessNotStarted(self.name, str(error), pause_seconds))
                await asyncio.sleep(pause_seconds)


def _advice(code: int) -> str:
    if code != -signal.SIGKILL:
        return ""
    return (
        "; whom the system kills while it loads a model has most often run out of memory (its log,"
        " dmesg, says so): use a smaller --dtype, fewer models, or a machine with more"
    )
