"""The step loop where requests take steps together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from denoiser_service.rank.commands import Command
from denoiser_service.service.policy import Order
from services.domain.stages import Denoised
from tests.unit.denoiser_service.scheduling import Hold, Scheduling, passed, scheduling
from triptych.domain.deadline import Deadline
from triptych.domain.errors import (
    Cancelled,
    DeadlineExceeded,
    RanksLost,
    RemoteFailure,
    TriptychError,
)
from triptych.domain.events import StepCompleted

both_orders = pytest.mark.parametrize("order", list(Order))


@asynccontextmanager
async def _batching(
    order: Order = Order.FIFO, max_step_batch: int = 4
) -> AsyncIterator[Scheduling]:
    async with scheduling(order=order, max_step_batch=max_step_batch) as each:
        each.ranks.batch_key = "alike"
        yield each


async def _started(each: Scheduling, hold: Hold, **steps: int) -> dict[str, asyncio.Task[object]]:
    """Requests that are all there before the ranks go on."""
    tasks = {name: each.start(name, steps=count) for name, count in steps.items()}
    await hold.reached.wait()
    return tasks  # type: ignore[return-value]


@both_orders
async def test_requests_step_together_and_leave_when_they_are_done(order: Order) -> None:
    async with _batching(order) as each:
        hold = Hold(each.ranks, "prepare", "a")
        tasks = await _started(each, hold, a=4, b=2, c=3)
        hold.go.set()
        done = await asyncio.gather(*tasks.values())
        assert each.ranks.commands == [
            ("prepare", "a"),
            ("prepare", "b"),
            ("prepare", "c"),
            ("step_batch", "a, b, c"),
            ("step_batch", "a, b, c"),
            ("finish", "b"),
            ("step_batch", "a, c"),
            ("finish", "c"),
            ("step", "a"),
            ("finish", "a"),
        ]
        assert each.scheduler.completed_steps == 9
        for events, steps in zip(done, (4, 2, 3), strict=True):
            stepped = [event.step for event in events if isinstance(event, StepCompleted)]  # type: ignore[attr-defined]
            assert stepped == list(range(1, steps + 1))


async def test_no_more_than_so_many_step_together_and_all_get_their_turns() -> None:
    async with _batching(Order.ROUND_ROBIN, max_step_batch=2) as each:
        hold = Hold(each.ranks, "prepare", "a")
        tasks = await _started(each, hold, a=2, b=2, c=2)
        hold.go.set()
        await asyncio.gather(*tasks.values())
        batches = [names for kind, names in each.ranks.commands if kind == "step_batch"]
        assert batches == ["a, b", "c, a", "b, c"]


async def test_a_newcomer_joins_at_the_next_step() -> None:
    async with _batching() as each:
        hold = Hold(each.ranks, "step", "a")
        first = each.start("a")
        await hold.reached.wait()
        second = each.start("b")
        await asyncio.sleep(0)
        hold.go.set()
        await asyncio.gather(first, second)
        assert each.ranks.commands[:4] == [
            ("prepare", "a"),
            ("step", "a"),
            ("prepare", "b"),
            ("step_batch", "a, b"),
        ]


async def test_who_fails_in_a_batch_does_not_disturb_the_others() -> None:
    async with _batching() as each:
        hold = Hold(each.ranks, "prepare", "a")
        each.ranks.failing = {"b"}
        tasks = await _started(each, hold, a=2, b=2, c=2)
        hold.go.set()
        with pytest.raises(RemoteFailure, match="failed to step the request"):
            await tasks["b"]
        for name in "ac":
            assert isinstance((await tasks[name])[-1], Denoised)  # type: ignore[index]
        assert each.commands_for("b") == ["prepare", "step_batch"]


async def test_a_batch_that_fails_as_a_whole_leaves_nothing_in_the_ranks() -> None:
    async def fail(command: Command) -> None:
        if command.kind == "step_batch":
            raise TriptychError("requests take their steps alone here")

    async with _batching() as each:
        hold = Hold(each.ranks, "prepare", "a")
        tasks = await _started(each, hold, a=2, b=2)
        each.ranks.on_command = fail
        hold.go.set()
        for name in "ab":
            with pytest.raises(TriptychError, match="alone here"):
                await tasks[name]
        assert each.ranks.held == set()
        assert each.commands_for("b") == ["prepare", "step_batch", "abort"]


async def test_who_is_cancelled_during_a_batch_leaves_after_it_and_the_others_go_on() -> None:
    async with _batching() as each:
        hold = Hold(each.ranks, "step_batch", "a, b, c")
        tasks = await _started(each, hold, a=2, b=2, c=2)
        assert each.scheduler.cancel("b") == 0
        hold.go.set()
        with pytest.raises(Cancelled, match="1 of 2 steps were done"):
            await tasks["b"]
        await asyncio.gather(tasks["a"], tasks["c"])
        assert each.commands_for("b") == ["prepare", "step_batch", "abort"]
        assert ("step_batch", "a, c") in each.ranks.commands


async def test_a_deadline_that_passes_during_a_batch_is_its_own_requests_alone() -> None:
    deadline = Deadline.after(600)
    async with _batching() as each:
        hold = Hold(each.ranks, "step_batch", "a, b")
        late = each.start("a", steps=2, deadline=deadline)
        in_time = each.start("b", steps=2)
        await hold.reached.wait()
        passed(deadline)
        hold.go.set()
        with pytest.raises(DeadlineExceeded, match="1 of 2 steps were done"):
            await late
        assert isinstance((await in_time)[-1], Denoised)


async def test_a_rank_that_dies_under_a_batch_loses_all_of_it_and_the_queue_waits() -> None:
    async with scheduling(max_step_batch=2, max_resident=2) as each:
        each.ranks.batch_key = "alike"
        hold = Hold(each.ranks, "step_batch", "a, b")
        tasks = await _started(each, hold, a=2, b=2, c=2)
        each.ranks.die()
        hold.go.set()
        for name in "ab":
            with pytest.raises(RanksLost):
                await tasks[name]
        each.ranks.rebuild()
        assert isinstance((await tasks["c"])[-1], Denoised)  # type: ignore[index]


async def test_without_a_key_or_a_batch_size_every_step_is_taken_alone() -> None:
    for size, key in ((1, "alike"), (4, None)):
        async with _batching(max_step_batch=size) as each:
            each.ranks.batch_key = key
            await asyncio.gather(*(each.start(name) for name in "ab"))
            assert {kind for kind, _ in each.ranks.commands} == {"prepare", "step", "finish"}
