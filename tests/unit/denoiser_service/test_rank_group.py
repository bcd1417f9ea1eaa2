"""Several ranks that work together: what one of them does happens to all."""

import os
import signal
import threading
import time

import psutil
import pytest

from denoiser_service.rank.commands import (
    Abort,
    Aborted,
    Finish,
    Finished,
    Prepare,
    Prepared,
    Step,
    Stepped,
)
from tests.processes import EXEC
from tests.unit.denoiser_service.fakes import TENANT
from tests.unit.denoiser_service.supervised import (
    STEP,
    Supervised,
    lost,
    rank_processes,
    supervised,
)
from tests.unit.domain.examples import TENSOR_REF
from tests.unit.model_ports.fake_model import parameters
from triptych.domain.errors import ConfigurationError, TriptychError

pytestmark = pytest.mark.slow

SILENCE = 1.6


def prepare(request_id: str) -> Prepare:
    return Prepare(
        request_id=request_id,
        tenant=TENANT,
        parameters=parameters(seed=1),
        conditioning=TENSOR_REF,
    )


async def _rebuilt(group: Supervised, before: list[psutil.Process]) -> None:
    """The whole group was replaced, and works."""
    await group.ranks.wait_ready()
    assert not any(each.is_running() for each in before), "the others went with it"
    assert isinstance(await group.execute(STEP), Stepped)


async def test_every_rank_is_told_what_torchrun_would_tell_it() -> None:
    # The kernel shows the environment that a process was executed with.
    async with supervised(ranks=3, launcher=EXEC) as group:
        ranks = await rank_processes(3)
        assert await group.ready_pid() == ranks[0].pid
        told = [each.environ() for each in ranks]
        assert [each["RANK"] for each in told] == ["0", "1", "2"]
        assert [each["LOCAL_RANK"] for each in told] == ["0", "1", "2"]
        assert {each["WORLD_SIZE"] for each in told} == {"3"}
        assert {each["MASTER_ADDR"] for each in told} == {"127.0.0.1"}
        assert len({each["MASTER_PORT"] for each in told}) == 1


async def test_ranks_that_agree_answer_with_one_reply() -> None:
    async with supervised(ranks=4) as group:
        await group.ready_pid()
        assert isinstance(await group.execute(prepare("a")), Prepared)
        for _ in range(3):
            assert isinstance(await group.execute(STEP), Stepped)
        assert isinstance(await group.execute(Abort(request_id="a")), Aborted)


@pytest.mark.parametrize("number", range(3))
async def test_a_rank_killed_in_a_step_is_noticed_at_once_and_all_are_rebuilt(number: int) -> None:
    async with supervised(ranks=3, command_seconds=3600) as group:
        await group.ready_pid()
        before = await rank_processes(3)
        began = time.monotonic()
        assert "died" in await lost(group, Step(request_id=f"killed@{number}"))
        assert time.monotonic() - began < 1
        await _rebuilt(group, before)


@pytest.mark.parametrize("number", range(3))
async def test_a_rank_stopped_in_a_step_is_noticed_in_bounds_and_all_are_rebuilt(
    number: int,
) -> None:
    async with supervised(ranks=3, command_seconds=3600, silence_seconds=SILENCE) as group:
        await group.ready_pid()
        before = await rank_processes(3)
        said = await lost(group, Step(request_id=f"stopped@{number}"))
        assert said == f"rank {number} was silent for {SILENCE} s; repeat the request"
        await _rebuilt(group, before)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_idle_rank_that_dies_or_stops_is_noticed_without_a_command(
    sent: signal.Signals,
) -> None:
    async with supervised(ranks=2, silence_seconds=SILENCE) as group:
        assert await group.changes.get() is True
        before = await rank_processes(2)
        os.kill(before[1].pid, sent)
        assert await group.changes.get() is False
        await _rebuilt(group, before)


async def test_ranks_that_disagree_are_all_replaced() -> None:
    async with supervised(ranks=2) as group:
        await group.ready_pid()
        before = await rank_processes(2)
        said = await lost(group, Step(request_id="differs@1"))
        assert said == "the ranks disagreed; repeat the request"
        await _rebuilt(group, before)


async def test_a_step_that_every_rank_refuses_costs_no_rank() -> None:
    async with supervised(ranks=2) as group:
        await group.ready_pid()
        with pytest.raises(TriptychError, match="no steps left"):
            await group.execute(Step(request_id="fails"))
        assert isinstance(await group.execute(STEP), Stepped)
        assert group.ranks.generation == 1


async def test_a_step_that_one_rank_breaks_off_does_not_leave_the_others_waiting() -> None:
    async with supervised(ranks=2, command_seconds=3600, silence_seconds=SILENCE) as group:
        await group.ready_pid()
        before = await rank_processes(2)
        said = await lost(group, Step(request_id="strands"))
        assert said == "a rank failed at a step in which others wait for it; repeat the request"
        await _rebuilt(group, before)


async def test_a_rank_that_cannot_go_on_takes_the_others_with_it() -> None:
    async with supervised(ranks=2) as group:
        await group.ready_pid()
        before = await rank_processes(2)
        assert "the device is broken" in await lost(group, Step(request_id="fatal@1"))
        await _rebuilt(group, before)


async def test_a_request_that_one_rank_cannot_take_in_is_forgotten_by_all() -> None:
    async with supervised(ranks=2) as group:
        await group.ready_pid()
        with pytest.raises(TriptychError, match="no memory"):
            await group.execute(prepare("unprepared@1"))
        # Had the first kept it, it would answer to it.
        with pytest.raises(TriptychError, match="it was aborted"):
            await group.execute(Step(request_id="unprepared@1"))
        assert group.ranks.generation == 1


async def test_a_rank_that_refuses_its_settings_ends_the_start_of_all() -> None:
    async with supervised("refuses@1", ranks=2) as group:
        with pytest.raises(ConfigurationError, match="said why above"):
            await group.running


async def test_ranks_that_hold_different_things_do_not_start() -> None:
    async with supervised("stores-differ", ranks=2) as group:
        with pytest.raises(ConfigurationError, match="do not hold the same"):
            await group.running


async def test_a_supervisor_that_was_itself_stopped_does_not_blame_its_ranks() -> None:
    async with supervised(ranks=2, silence_seconds=SILENCE) as group:
        assert await group.changes.get() is True
        # Blocks the loop, as a stop of the process does.
        threading.Event().wait(3 * SILENCE)
        assert isinstance(await group.execute(STEP), Stepped)
        assert group.ranks.generation == 1


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("busy", [True, False], ids=["in a step", "idle"])
async def test_ranks_are_rebuilt_twenty_times_in_a_row(how: str, busy: bool) -> None:
    sent = signal.SIGKILL if how == "killed" else signal.SIGSTOP
    async with supervised(
        "finishes", ranks=4, silence_seconds=SILENCE, patience_seconds=500
    ) as group:
        for turn in range(20):
            assert await group.changes.get() is True
            before, number = await rank_processes(4), turn % 4
            assert isinstance(await group.execute(Finish(request_id="a")), Finished)
            if busy:
                await lost(group, Step(request_id=f"{how}@{number}"))
            else:
                os.kill(before[number].pid, sent)
            assert await group.changes.get() is False
            await _rebuilt(group, before)
        assert group.ranks.generation == 21
