"""Starts processes as forks of one that has imported what they need."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from triptych.launcher.command import Command
from triptych.launcher.fork_server_link import ForkServerLink, ForkServerLost
from triptych.launcher.launcher import executed
from triptych.launcher.process import LaunchedProcess

# Read by our own processes and by torch.distributed when a group is formed. Others may have been
# read by a library when it was imported, and need an interpreter of their own.
_READ_LATE: Final = (
    *("TRIPTYCH_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"),
)


class ForkLauncher:
    """Forks where that gives what exec would, and execs where it would not.

    A server that ends is said to have, and another one is started; one that never gets ready is
    not tried again.

    Args:
        modules: what will be started; the server imports what they need.
        on_lost: told why a server was given up.
        output: descriptor to which a server writes; None for this process's own.
    """

    def __init__(
        self,
        modules: Sequence[str],
        on_lost: Callable[[str], None] = lambda _: None,
        output: int | None = None,
    ) -> None:
        self._modules = modules
        self._on_lost = on_lost
        self._output = output
        self._server = ForkServerLink.take_inherited()
        self._given_up = False

    def begin(self) -> None:
        """Has a server import now what will be needed soon."""
        if self._server is None and not self._given_up:
            self._server = ForkServerLink.start(self._modules, self._output)

    async def launch(self, command: Command) -> LaunchedProcess:
        """See Launcher."""
        server = await self._ready_for(command) if _is_sound(command) else None
        if server is not None:
            try:
                return await _forked(server, command)
            except ForkServerLost as lost:
                await self._drop(server, lost)
        return executed(command)

    async def close(self) -> None:
        """Ends the server; what it forked goes on."""
        self._given_up = True
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    async def _ready_for(self, command: Command) -> ForkServerLink | None:
        try:
            return await self._ready(command)
        except ForkServerLost as lost:
            if self._server is not None:
                await self._drop(self._server, lost)
        return None

    async def _ready(self, command: Command) -> ForkServerLink | None:
        server = self._server
        if server is not None and server.ready:
            try:
                server.look()
            except ForkServerLost as lost:
                # It died while nobody needed it: waiting for another costs no more than an exec.
                await self._drop(server, lost)
        if command.heavy:
            self.begin()
        server = self._server
        if server is None or not (command.heavy or server.look()):
            return None
        await server.until_ready()
        return server

    async def _drop(self, server: ForkServerLink, why: ForkServerLost) -> None:
        if self._server is server:
            self._server = None
            self._given_up = self._given_up or not server.ready
            self._on_lost(str(why))
            await server.close()


async def _forked(server: ForkServerLink, command: Command) -> LaunchedProcess:
    forking = asyncio.create_task(server.fork(command))
    try:
        return await asyncio.shield(forking)
    except asyncio.CancelledError:
        # Nobody else will know of it.
        process = await forking
        process.kill()
        await process.wait()
        raise


def _is_sound(command: Command) -> bool:
    return all(
        any(name == late or (late.endswith("_") and name.startswith(late)) for late in _READ_LATE)
        for name in command.variables
    )
