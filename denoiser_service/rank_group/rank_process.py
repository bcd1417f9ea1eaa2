"""One rank's process, as its supervisor holds it. Loads no torch."""

import asyncio
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from denoiser_service.rank.channel import RankLink
from services.domain.settings import environment_with

_STOP_SECONDS = 5.0


class RankProcess:
    """A started rank and the link to it.

    Attributes:
        number: its place in the group.
        link: the channel to it.
    """

    def __init__(self, number: int, process: asyncio.subprocess.Process, link: RankLink) -> None:
        self.number = number
        self.link = link
        self._process = process

    @classmethod
    async def start(
        cls,
        number: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> "RankProcess":
        """Starts a rank.

        Args:
            number: its place in the group.
            command: module and flags; the channel's is added.
            environment: variables beside those of this process.
            pass_fds: descriptors that it inherits beside its channel.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    *command,
                    "--channel-fd",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno(), *pass_fds],
                    env=environment_with(**environment),
                    # A rank is ended by its supervisor, not by the terminal's Ctrl-C.
                    start_new_session=True,
                )
            except BaseException:
                # Cancelled or failed: nobody else knows of this end of the channel.
                writer.close()
                raise
        return cls(number, process, RankLink(reader, writer))

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Of its process; None while it runs."""
        return self._process.returncode

    async def ended(self) -> str:
        """Waits until the process or its channel ends; returns how."""
        ends = [
            asyncio.create_task(self._process.wait()),
            asyncio.create_task(self.link.ended()),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ends:
                each.cancel()
        return f"rank {self.number} died"

    async def stop(self) -> None:
        """Lets the process end by itself, which it does when the channel closes; then kills it."""
        self.link.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """Kills what is left of the process, stopped or not, and collects it."""
        self.link.close()
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
