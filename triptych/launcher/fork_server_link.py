"""A fork server, as its starter holds it."""

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from contextlib import closing
from typing import ClassVar, Final, Self

from triptych.launcher.command import Command
from triptych.launcher.fork_order import GO, READY, ForkOrder
from triptych.launcher.launcher import environment, executed
from triptych.launcher.parentage import adopting
from triptych.launcher.process import LaunchedProcess, until_readable

_MODULE: Final = "triptych.launcher.fork_server"
_VARIABLES: Final = {
    # Libraries may look for GPUs while they are imported; the driver must not be touched for that.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # NumPy's and SciPy's would start threads when it is loaded. Stages compute with torch.
    "OPENBLAS_NUM_THREADS": "1",
}
_REPLY_SECONDS: Final = 20.0
_MAX_BYTES: Final = 4096


class ForkServerLost(ConnectionError):
    """The server ended or does not do its work; the message says how."""


class ForkServerLink:
    """A server and the socket to it; belongs to no event loop.

    Args:
        link: the starter's end.
        server: its process id.
    """

    _inherited: ClassVar["ForkServerLink | None"] = None

    def __init__(self, link: socket.socket, server: int) -> None:
        link.setblocking(False)
        self._link = link
        self._process = LaunchedProcess(server)
        self.ready = False

    @classmethod
    def start(cls, modules: Sequence[str], output: int | None = None) -> Self:
        """Starts a server, which begins to import at once.

        Args:
            modules: what it will be asked to run.
            output: descriptor to which it writes; None for this process's own.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            command = Command(
                module=_MODULE,
                arguments=(str(theirs.fileno()), str(os.getpid()), *modules),
                variables=_VARIABLES,
                stdin=nothing,
                stdout=output,
                stderr=output,
                descriptors=(theirs.fileno(),),
            )
            return cls(ours, executed(command).pid)
        except OSError:
            ours.close()
            raise
        finally:
            os.close(nothing)
            theirs.close()

    @classmethod
    def inherit(cls, server: "ForkServerLink") -> None:
        """Keeps a server that this process was born with, or began with, for its first launcher."""
        ForkServerLink._inherited = server

    @classmethod
    def is_inherited(cls) -> bool:
        """Whether there is one that no launcher has taken."""
        return ForkServerLink._inherited is not None

    @classmethod
    def take_inherited(cls) -> "ForkServerLink | None":
        """The server that this process was born with; None if it has none, or another has it."""
        server, ForkServerLink._inherited = ForkServerLink._inherited, None
        return server

    def look(self) -> bool:
        """Whether it is ready by now.

        Raises:
            ForkServerLost: it never will be, or is not any more.
        """
        try:
            said = self._link.recv(_MAX_BYTES)
        except BlockingIOError:
            return self.ready
        except OSError as error:
            raise ForkServerLost(str(error)) from error
        if said != READY:
            raise ForkServerLost(said.decode() or "it ended")
        self.ready = True
        return True

    async def until_ready(self) -> None:
        """Waits until it has imported what it is to.

        Raises:
            ForkServerLost: it never will have.
        """
        while not self.look():
            await until_readable(self._link.fileno())

    async def fork(self, command: Command) -> LaunchedProcess:
        """Has a ready server fork a process, which is this process's child.

        Raises:
            ForkServerLost: it did not.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with closing(ours), adopting():
            order = ForkOrder(
                module=command.module,
                arguments=command.arguments,
                environment=dict(environment(command)),
                directory=os.getcwd(),  # noqa: PTH109 - a text
                targets=(0, 1, 2, *command.descriptors),
                starter=os.getpid(),
                launches=bool(command.children),
            )
            try:
                with closing(theirs):
                    sent = [theirs.fileno(), *command.standard, *command.descriptors]
                    order.send(self._link, sent)
                process = LaunchedProcess(await _announced(ours))
                # What it waits for: whoever asked is still there, and knows of it.
                ours.send(GO)
            except TimeoutError as error:
                raise ForkServerLost(f"it did not fork within {_REPLY_SECONDS:g} s") from error
            except OSError as error:
                raise ForkServerLost(str(error)) from error
        return process

    async def close(self) -> None:
        """Ends it; what it forked goes on."""
        self._link.close()
        self._process.kill()
        await self._process.wait()


async def _announced(reply: socket.socket) -> int:
    """The process id that a new process says it has."""
    async with asyncio.timeout(_REPLY_SECONDS):
        await until_readable(reply.fileno())
    said = reply.recv(_MAX_BYTES)
    if not said:
        raise ForkServerLost("it ended")
    told = json.loads(said)
    if "problem" in told:
        raise ForkServerLost(told["problem"])
    return int(told["pid"])
