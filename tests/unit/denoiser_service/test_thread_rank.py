import asyncio
import threading
from typing import Any

import pytest

from denoiser_service.rank.commands import Aborted, Command, Failed, Reply, Step, Stepped
from denoiser_service.rank_group.thread_rank import ThreadRankGroup
from services.torch_setup.runtime import hold_threads
from tests.unit.denoiser_service.scripted_ranks import READY
from triptych.domain.errors import RanksLost, StoreFull, TriptychError

STEP = Step(request_id="a")


class Executing:
    """An executor that does what the test says and remembers where."""

    def __init__(self, reply: Reply) -> None:
        self.threads: list[str] = []
        self.commands: list[Command] = []
        self._reply = reply

    def execute(self, command: Command) -> Reply:
        self.threads.append(threading.current_thread().name)
        self.commands.append(command)
        return self._reply


def _ranks(reply: Reply) -> tuple[ThreadRankGroup, Executing]:
    executor: Any = Executing(reply)
    return ThreadRankGroup(executor, READY, hold_threads), executor


async def test_it_is_ready_from_the_start() -> None:
    ranks, _ = _ranks(Aborted(request_id="a", completed_steps=0))
    await ranks.wait_ready()
    assert ranks.current.ready is READY
    assert ranks.generation == 1
    await ranks.close()


async def test_all_commands_run_on_one_thread_which_is_not_the_loops() -> None:
    stepped = Stepped(request_id="a", step=1, total_steps=2, sigma=1.0, seconds=0.0)
    ranks, executor = _ranks(stepped)
    assert [await ranks.execute(STEP) for _ in range(3)] == [stepped] * 3
    await ranks.close()
    assert executor.commands == [STEP] * 3
    assert len(set(executor.threads)) == 1
    assert executor.threads[0] != threading.current_thread().name


async def test_what_a_command_fails_at_is_raised_as_it_was() -> None:
    ranks, _ = _ranks(Failed.of("a", StoreFull("no room")))
    with pytest.raises(TriptychError, match="no room") as caught:
        await ranks.execute(STEP)
    assert (caught.value.status, caught.value.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
    await ranks.close()


async def test_a_failed_device_ends_what_runs_the_ranks() -> None:
    ranks, _ = _ranks(Failed.of("a", TriptychError("the device is broken"), fatal=True))
    running = asyncio.create_task(ranks.run())
    with pytest.raises(TriptychError, match="the device is broken"):
        await ranks.execute(STEP)
    with pytest.raises(RanksLost, match="cannot use it any more"):
        await asyncio.wait_for(running, 20)
    await ranks.close()


async def test_closing_ends_the_thread() -> None:
    ranks, executor = _ranks(Aborted(request_id="a", completed_steps=0))
    await ranks.execute(STEP)
    await ranks.close()
    assert executor.threads[0] not in {each.name for each in threading.enumerate()}
