import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from denoiser_service.commands import Finish, Step, Stepped
from denoiser_service.supervisor import ProcessRankGroup
from services.domain.errors import ConfigurationError, RanksLost, TriptychError
from tests.unit.denoiser_service.scripted_ranks import READY

MODULE = "tests.unit.denoiser_service.scripted_rank"
STEP = Step(request_id="a")


class Supervised:
    """A rank group over real processes, and what it said about itself."""

    def __init__(self, mode: str, start_seconds: float, command_seconds: float) -> None:
        self.ranks = ProcessRankGroup(
            [mode], start_seconds=start_seconds, command_seconds=command_seconds, module=MODULE
        )
        self.changes: asyncio.Queue[bool] = asyncio.Queue()
        self.running = asyncio.create_task(self.ranks.run(self.changes.put))

    async def ready_pid(self) -> int:
        return (await self.ranks.wait_ready()).pid


@asynccontextmanager
async def _supervised(
    mode: str = "serves", *, start_seconds: float = 60, command_seconds: float = 60
) -> AsyncIterator[Supervised]:
    before = set(psutil.Process().children(recursive=True))
    supervised = Supervised(mode, start_seconds, command_seconds)
    try:
        async with asyncio.timeout(40):
            yield supervised
    finally:
        await supervised.ranks.close()
        supervised.running.cancel()
        await asyncio.gather(supervised.running, return_exceptions=True)
        left = set(psutil.Process().children(recursive=True)) - before
        assert not left, "no rank outlives its supervisor"


async def _lost(supervised: Supervised, command: Step = STEP) -> str:
    with pytest.raises(RanksLost) as caught:
        await supervised.ranks.execute(command)
    return str(caught.value)


async def test_a_rank_that_is_ready_executes_commands() -> None:
    async with _supervised() as each:
        pid = await each.ready_pid()
        assert each.ranks.ready == READY.model_copy(update={"pid": pid})
        assert each.ranks.generation == 1
        assert await each.changes.get() is True
        assert isinstance(await each.ranks.execute(STEP), Stepped)
        assert await each.ranks.execute(STEP) == await each.ranks.execute(STEP)


async def test_before_it_is_ready_commands_find_no_ranks() -> None:
    async with _supervised("hangs") as each:
        assert each.ranks.ready is None
        assert "being rebuilt" in await _lost(each)


async def test_what_a_rank_fails_at_is_raised_as_it_was() -> None:
    async with _supervised() as each:
        pid = await each.ready_pid()
        with pytest.raises(TriptychError, match="no room") as caught:
            await each.ranks.execute(Finish(request_id="a"))
        assert (caught.value.status, caught.value.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
        assert caught.value.retry_after_seconds == 1.0
        assert (await each.ranks.wait_ready()).pid == pid


async def test_a_rank_killed_while_idle_is_rebuilt() -> None:
    async with _supervised() as each:
        pid = await each.ready_pid()
        os.kill(pid, signal.SIGKILL)
        assert [await each.changes.get() for _ in range(3)] == [True, False, True]
        assert await each.ready_pid() != pid
        assert each.ranks.generation == 2
        assert isinstance(await each.ranks.execute(STEP), Stepped)


async def test_the_first_command_after_a_kill_finds_the_ranks_lost() -> None:
    async with _supervised() as each:
        os.kill(await each.ready_pid(), signal.SIGKILL)
        await _lost(each)


async def test_a_rank_killed_during_a_command_is_noticed_at_once_and_rebuilt() -> None:
    async with _supervised(command_seconds=3600) as each:
        pid = await each.ready_pid()
        assert await _lost(each, Step(request_id="killed")) == "a rank died; repeat the request"
        assert each.ranks.ready is None
        assert await each.ready_pid() != pid
        assert each.ranks.generation == 2


async def test_a_rank_that_hangs_is_killed_and_rebuilt() -> None:
    async with _supervised(command_seconds=0.5) as each:
        pid = await each.ready_pid()
        said = await _lost(each, Step(request_id="stopped"))
        assert said == "a rank did not answer within 0.5 s; repeat the request"
        assert not psutil.pid_exists(pid)
        assert await each.ready_pid() != pid


async def test_a_rank_that_cannot_go_on_is_lost_with_all_it_held() -> None:
    async with _supervised() as each:
        pid = await each.ready_pid()
        assert "the device is broken" in await _lost(each, Step(request_id="fatal"))
        assert await each.ready_pid() != pid


async def test_a_rank_that_refuses_its_settings_is_a_configuration_error() -> None:
    async with _supervised("refuses") as each:
        with pytest.raises(ConfigurationError, match="the rank cannot start; it said why above"):
            await each.running


async def test_a_rank_that_fails_to_start_is_started_again(tmp_path: Path) -> None:
    async with _supervised(f"fails-once:{tmp_path}/marker") as each:
        await each.ready_pid()
        assert each.ranks.generation == 2
        assert await each.changes.get() is True
        assert each.changes.empty()


async def test_a_rank_that_is_never_ready_is_killed() -> None:
    async with _supervised("hangs", start_seconds=0.5) as each:
        (first,) = await _children()
        await asyncio.to_thread(psutil.wait_procs, [first], 30)
        assert not first.is_running()
        assert not each.running.done()


async def test_a_rank_that_babbles_is_killed() -> None:
    async with _supervised("babbles") as each:
        (first,) = await _children()
        await asyncio.to_thread(psutil.wait_procs, [first], 30)
        assert each.ranks.ready is None
        assert not each.running.done()


async def test_closing_ends_the_rank_and_starts_no_other() -> None:
    async with _supervised() as each:
        pid = await each.ready_pid()
        await each.ranks.close()
        assert not psutil.pid_exists(pid)
        assert [await each.changes.get() for _ in range(2)] == [True, False]
        assert await _children() == []
        assert each.ranks.generation == 1
        assert not each.running.done()


async def test_closing_ends_a_rank_that_hangs() -> None:
    async with _supervised(command_seconds=3600) as each:
        pid = await each.ready_pid()
        step = asyncio.create_task(each.ranks.execute(Step(request_id="stopped")))
        await asyncio.to_thread(_wait_stopped, psutil.Process(pid))
        await each.ranks.close()
        assert not psutil.pid_exists(pid)
        with pytest.raises(RanksLost):
            await step


def test_a_rank_ends_with_a_supervisor_that_is_killed() -> None:
    program = (
        "import asyncio\n"
        "from denoiser_service.supervisor import ProcessRankGroup\n"
        "async def changed(ready):\n"
        "    print('rank pid', ranks.ready.pid, flush=True)\n"
        "ranks = ProcessRankGroup(\n"
        f"    ['serves'], start_seconds=60, command_seconds=60, module={MODULE!r})\n"
        "asyncio.run(ranks.run(changed))\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        try:
            assert supervisor.stdout is not None
            said = next(line for line in supervisor.stdout if line.startswith("rank pid "))
            rank = psutil.Process(int(said.removeprefix("rank pid ")))
        finally:
            supervisor.kill()
        _, alive = psutil.wait_procs([rank], timeout=30)
    assert not alive


async def _children() -> list[psutil.Process]:
    """This process's ranks, once the loop has started what it is about to start."""
    for _ in range(100):
        await asyncio.sleep(0)
    return [each for each in psutil.Process().children() if MODULE in " ".join(each.cmdline())]


def _wait_stopped(process: psutil.Process) -> None:
    while process.status() != psutil.STATUS_STOPPED:
        pass
