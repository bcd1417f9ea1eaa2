"""A process that this one started."""

import asyncio
import os
import signal
from contextlib import suppress


class LaunchedProcess:
    """A child of this process, however it was started.

    Attributes:
        pid: its process id, and that of its session and group.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        # Nobody has collected it yet, so that the number is its own.
        self._handle = os.pidfd_open(pid)
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None while it runs."""
        if self._code is None:
            ended = os.waitid(os.P_PIDFD, self._handle, os.WEXITED | os.WNOHANG)
            if ended is not None:
                exited = ended.si_code == os.CLD_EXITED
                self._code = ended.si_status if exited else -ended.si_status
                os.close(self._handle)
        return self._code

    def fileno(self) -> int:
        """A descriptor that becomes readable when it ends; only while it was not seen to."""
        return self._handle

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        while (code := self.poll()) is None:
            await until_readable(self._handle)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGKILL)


async def until_readable(descriptor: int) -> None:
    """Waits until there is something to read; several may wait for the same."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    # A loop takes one reader for a descriptor.
    watched = os.dup(descriptor)
    loop.add_reader(watched, _settle, readable)
    try:
        await readable
    finally:
        loop.remove_reader(watched)
        os.close(watched)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
