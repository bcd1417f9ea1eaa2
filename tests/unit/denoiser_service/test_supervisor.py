import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import structlog

from denoiser_service.rank.commands import Finish, Step, Stepped
from denoiser_service.rank_group import supervisor
from tests.unit.denoiser_service.scripted_ranks import READY
from tests.unit.denoiser_service.supervised import (
    MODULE,
    STEP,
    collected,
    lost,
    rank_processes,
    running_ranks,
    supervised,
)
from triptych.domain.errors import ConfigurationError, RanksLost, TriptychError


async def test_a_rank_that_is_ready_executes_commands() -> None:
    async with supervised() as each:
        pid = await each.ready_pid()
        assert each.current.ready == READY.model_copy(update={"pid": pid})
        assert each.ranks.generation == 1
        assert await each.changes.get() is True
        assert isinstance(await each.execute(STEP), Stepped)
        assert await each.execute(STEP) == await each.execute(STEP)


async def test_before_one_is_ready_there_are_no_ranks() -> None:
    async with supervised("hangs") as each:
        assert each.ranks.current is None


async def test_what_a_rank_fails_at_is_raised_as_it_was() -> None:
    async with supervised() as each:
        pid = await each.ready_pid()
        with pytest.raises(TriptychError, match="no room") as caught:
            await each.execute(Finish(request_id="a"))
        assert (caught.value.status, caught.value.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
        assert caught.value.retry_after_seconds == 1.0
        assert await each.ready_pid() == pid


async def test_a_rank_killed_while_idle_is_rebuilt() -> None:
    async with supervised() as each:
        pid = await each.ready_pid()
        os.kill(pid, signal.SIGKILL)
        assert [await each.changes.get() for _ in range(3)] == [True, False, True]
        assert await each.ready_pid() != pid
        assert each.ranks.generation == 2
        assert isinstance(await each.execute(STEP), Stepped)


async def test_the_first_command_after_a_kill_finds_the_rankslost() -> None:
    async with supervised() as each:
        os.kill(await each.ready_pid(), signal.SIGKILL)
        await lost(each)


async def test_a_rank_killed_during_a_command_is_noticed_at_once_and_rebuilt() -> None:
    async with supervised(command_seconds=3600) as each:
        pid = await each.ready_pid()
        assert "died; repeat the request" in await lost(each, Step(request_id="killed"))
        assert each.ranks.current is None
        assert await each.ready_pid() != pid
        assert each.ranks.generation == 2


async def test_a_rank_that_is_stopped_is_silent_and_rebuilt() -> None:
    async with supervised(silence_seconds=0.8) as each:
        pid = await each.ready_pid()
        said = await lost(each, Step(request_id="stopped"))
        assert said == "rank 0 was silent for 0.8 s; repeat the request"
        assert await each.ready_pid() != pid
        assert not psutil.pid_exists(pid)


async def test_a_rank_that_is_stopped_while_idle_is_silent_too() -> None:
    async with supervised(silence_seconds=0.8) as each:
        pid = await each.ready_pid()
        assert await each.changes.get() is True
        os.kill(pid, signal.SIGSTOP)
        assert [await each.changes.get() for _ in range(2)] == [False, True]
        assert not psutil.pid_exists(pid)


async def test_a_rank_that_never_answers_is_killed_however_lively_it_is() -> None:
    async with supervised(command_seconds=0.5) as each:
        pid = await each.ready_pid()
        said = await lost(each, Step(request_id="busy"))
        assert said == "a rank did not answer within 0.5 s; repeat the request"
        assert await each.ready_pid() != pid
        assert not psutil.pid_exists(pid)


async def test_a_rank_that_cannot_go_on_is_lost_with_all_it_held() -> None:
    async with supervised() as each:
        pid = await each.ready_pid()
        assert "the device is broken" in await lost(each, Step(request_id="fatal"))
        assert await each.ready_pid() != pid


async def test_a_rank_that_refuses_its_settings_is_a_configuration_error() -> None:
    async with supervised("refuses") as each:
        with pytest.raises(ConfigurationError, match="the rank cannot start; it said why above"):
            await each.running


async def test_a_rank_that_fails_to_start_is_started_again(tmp_path: Path) -> None:
    async with supervised(f"fails-once:{tmp_path}/marker") as each:
        await each.ready_pid()
        assert each.ranks.generation == 2
        assert await each.changes.get() is True
        assert each.changes.empty()


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_MAX_PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("without_pauses")
async def test_a_rank_that_the_system_kills_at_every_start_is_given_up() -> None:
    async with supervised("is-killed") as each:
        with pytest.raises(ConfigurationError, match="run out of memory") as caught:
            await each.running
        assert "killed by SIGKILL while they loaded the model, 3 times in a row" in str(
            caught.value
        )
        assert each.ranks.generation == 3


@pytest.mark.usefixtures("without_pauses")
async def test_one_of_several_ranks_that_is_killed_at_every_start_is_given_up_too() -> None:
    async with supervised("is-killed@1", ranks=2) as each:
        with pytest.raises(ConfigurationError, match="run out of memory"):
            await each.running


@pytest.mark.usefixtures("without_pauses")
async def test_ranks_that_were_ready_once_are_started_again_however_often_they_are_killed(
    tmp_path: Path,
) -> None:
    async with supervised(f"is-killed-after:{tmp_path}/marker") as each:
        os.kill(await each.ready_pid(), signal.SIGKILL)
        with structlog.testing.capture_logs() as lines:
            while each.ranks.generation < 5:  # noqa: ASYNC110 - nobody announces them
                # The loop's turn: it is what starts them.
                await asyncio.sleep(0)
        assert sum(line["event"] == "ranks did not start" for line in lines) >= 3
        assert not each.running.done()


async def test_a_rank_that_is_never_ready_is_killed() -> None:
    async with supervised("hangs", start_seconds=0.5) as each:
        (first,) = await rank_processes(1)
        await collected(first)
        assert not each.running.done()


async def test_a_rank_that_babbles_is_killed() -> None:
    async with supervised("babbles") as each:
        (first,) = await rank_processes(1)
        await collected(first)
        assert each.ranks.current is None
        assert not each.running.done()


async def test_closing_ends_the_rank_and_starts_no_other() -> None:
    async with supervised() as each:
        pid = await each.ready_pid()
        with structlog.testing.capture_logs() as lines:
            await each.ranks.close()
            assert not psutil.pid_exists(pid)
            assert [await each.changes.get() for _ in range(2)] == [True, False]
        assert [(line["event"], line["log_level"]) for line in lines] == [("ranks ended", "info")]
        assert running_ranks() == []
        assert each.ranks.generation == 1
        assert not each.running.done()


async def test_closing_ends_a_rank_that_hangs() -> None:
    async with supervised(command_seconds=3600) as each:
        pid = await each.ready_pid()
        step = asyncio.create_task(each.execute(Step(request_id="stopped")))
        await asyncio.to_thread(_wait_stopped, psutil.Process(pid))
        await each.ranks.close()
        assert not psutil.pid_exists(pid)
        with pytest.raises(RanksLost):
            await step


def test_a_rank_ends_with_a_supervisor_that_is_killed() -> None:
    program = (
        "import asyncio\n"
        "from denoiser_service.rank_group.local_ranks import LocalRanks\n"
        "from denoiser_service.rank_group.generation import RankBounds\n"
        "from denoiser_service.rank_group.supervisor import RankSupervisor\n"
        "from triptych.launcher.launcher import ExecLauncher\n"
        "async def changed(ready):\n"
        "    print('rank pid', ranks.current.ready.pid, flush=True)\n"
        "ranks = RankSupervisor(\n"
        f"    LocalRanks(['serves'], 1, 1, ExecLauncher(), {MODULE!r}),\n"
        f"    bounds=RankBounds(60, 60, 60))\n"
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


def _wait_stopped(process: psutil.Process) -> None:
    while process.status() != psutil.STATUS_STOPPED:
        pass
