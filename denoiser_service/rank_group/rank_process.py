"""One rank's process, as its supervisor holds it. Loads no torch."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress

from denoiser_service.rank.channel import RankLink
from triptych.launcher.command import Command
from triptych.launcher.launcher import Launcher
from triptych.launcher.process import LaunchedProcess

_STOP_SECONDS = 5.0
_KILL_SECONDS = 5.0


class RankProcess:
    """A started rank and the link to it.

    Attributes:
        number: its place in the group.
        link: the channel to it.
    """

    def __init__(self, number: int, process: LaunchedProcess, link: RankLink) -> None:
        self.number = number
        self.link = link
        self._process = process

    @classmethod
    async def start(
        cls,
        launcher: Launcher,
        number: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> "RankProcess":
        """Starts a rank.

        Args:
            launcher: starts its process.
            number: its place in the group.
            command: module and flags; the channel's is added.
            environment: variables beside those of this process.
            pass_fds: descriptors that it inherits beside its channel.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                module, *flags = command
                process = await launcher.launch(
                    Command(
                        module=module,
                        arguments=(*flags, "--channel-fd", str(theirs.fileno())),
                        variables=environment,
                        descriptors=(theirs.fileno(), *pass_fds),
                        heavy=True,
                    )
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
        return self._process.poll()

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

    async def kill(self) -> bool:
        """Kills what is left of the process, stopped or not; returns whether it is gone.

        A process in an uninterruptible sleep, such as a broken driver's, stays; it is collected
        whenever it ends.
        """
        self.link.close()
        self._process.kill()
        collected = asyncio.create_task(self._process.wait())
        ended, _ = await asyncio.wait([collected], timeout=_KILL_SECONDS)
        return bool(ended)
