"""A rank group over real processes without a model, watched."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psutil
import pytest

from denoiser_service.rank.commands import Command, Reply, Step
from denoiser_service.rank_group.generation import RankBounds, RankGeneration
from denoiser_service.rank_group.local_ranks import LocalRanks
from denoiser_service.rank_group.supervisor import RankSupervisor
from tests.processes import shared_launcher
from triptych.domain.errors import RanksLost
from triptych.domain.parallel import ParallelDegrees
from triptych.launcher.launcher import Launcher

MODULE = "tests.unit.denoiser_service.scripted_rank"
STEP = Step(request_id="a")


class Supervised:
    """A rank group, and what it said about itself."""

    def __init__(self, mode: str, ranks: int, bounds: RankBounds, launcher: Launcher) -> None:
        source = LocalRanks([mode], ranks, bounds.beat, launcher, MODULE)
        self.ranks = RankSupervisor(source, degrees=ParallelDegrees(ulysses=ranks), bounds=bounds)
        self.changes: asyncio.Queue[bool] = asyncio.Queue()
        self.running = asyncio.create_task(self.ranks.run(self.changes.put))

    @property
    def current(self) -> RankGeneration:
        assert self.ranks.current is not None
        return self.ranks.current

    async def execute(self, command: Command) -> Reply:
        return await self.current.execute(command)

    async def ready_pid(self) -> int:
        await self.ranks.wait_ready()
        return self.current.ready.pid


@asynccontextmanager
async def supervised(
    mode: str = "serves",
    *,
    ranks: int = 1,
    start_seconds: float = 60,
    command_seconds: float = 60,
    silence_seconds: float = 60,
    patience_seconds: float = 40,
    launcher: Launcher | None = None,
) -> AsyncIterator[Supervised]:
    launcher = launcher or shared_launcher()
    before = set(psutil.Process().children(recursive=True))
    bounds = RankBounds(start_seconds, command_seconds, silence_seconds)
    group = Supervised(mode, ranks, bounds, launcher)
    try:
        async with asyncio.timeout(patience_seconds):
            yield group
    finally:
        await group.ranks.close()
        group.running.cancel()
        await asyncio.gather(group.running, return_exceptions=True)
        left = set(psutil.Process().children(recursive=True)) - before
        assert not left, "no rank outlives its supervisor"


async def lost(group: Supervised, command: Step = STEP) -> str:
    with pytest.raises(RanksLost) as caught:
        await group.execute(command)
    return str(caught.value)


async def rank_processes(count: int) -> list[psutil.Process]:
    """This process's ranks by number, once so many have been started."""
    while len(ranks := running_ranks()) != count:  # noqa: ASYNC110 - nobody announces them
        # Others' turn: the loop is what starts them.
        await asyncio.sleep(0)
    return ranks


async def collected(rank: psutil.Process) -> None:
    """Waits until the supervisor has killed a rank and collected it."""
    while rank.is_running():  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0)


def running_ranks() -> list[psutil.Process]:
    """This process's ranks by number."""
    ranks = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if MODULE in " ".join(process.cmdline()):
                ranks.append(process)
    # They are started one after another.
    return sorted(ranks, key=lambda rank: (rank.create_time(), rank.pid))
