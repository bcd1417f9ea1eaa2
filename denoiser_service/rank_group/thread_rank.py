"""A group of one rank, on a thread of this process: the fused topology."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from denoiser_service.rank.commands import Command, Failed, RankReady, Reply
from denoiser_service.rank.executor import RankExecutor
from triptych.domain.errors import RanksLost
from triptych.domain.parallel import ONE_RANK


class ThreadRankGroup:
    """Executes commands on one thread; it cannot be lost without the whole process.

    Args:
        executor: what executes them.
        ready: what it holds.
        set_up_thread: called on the thread before its first command.
    """

    def __init__(
        self, executor: RankExecutor, ready: RankReady, set_up_thread: Callable[[], None]
    ) -> None:
        self._executor = executor
        self._thread = ThreadPoolExecutor(1, "rank", initializer=set_up_thread)
        self._broken = asyncio.Event()
        self.ready = ready
        self.generation = 1
        self.degrees = ONE_RANK

    @property
    def current(self) -> "ThreadRankGroup":
        """This one; there is never another."""
        return self

    async def run(self) -> None:
        """Runs until the device is of no further use in this process.

        Raises:
            RanksLost: it is; only another process can go on.
        """
        await self._broken.wait()
        raise RanksLost("the device failed; this process cannot use it any more")

    async def wait_ready(self) -> None:
        """Ready from the start."""

    async def execute(self, command: Command) -> Reply:
        """See port.Ranks."""
        loop = asyncio.get_running_loop()
        # The context goes along, so that what the executor logs names this process.
        reply = await loop.run_in_executor(
            self._thread, copy_context().run, self._executor.execute, command
        )
        if isinstance(reply, Failed):
            if reply.fatal:
                self._broken.set()
            raise reply.error()
        return reply

    async def close(self) -> None:
        """Waits for the command at hand and ends the thread."""
        await asyncio.to_thread(self._thread.shutdown)
