"""What callers are told of checkpoints, and how requests go from one denoiser to another."""

import asyncio
from collections.abc import Sequence

import pytest

from denoiser_service.rank.commands import Command, Prepare, Save
from services.domain.checkpoint import Checkpoint
from services.domain.stages import Denoised, DenoiseEvent
from tests.unit.denoiser_service.fakes import ONE, TWO
from tests.unit.denoiser_service.scheduling import Hold, Scheduling, scheduling
from tests.unit.denoiser_service.scripted_ranks import checkpoint_after
from triptych.domain.acceleration import TeaCache
from triptych.domain.errors import (
    HandedOver,
    RanksLost,
    StageUnavailable,
    StoreFull,
    TensorNotFound,
)
from triptych.domain.events import StepCompleted

TEA_CACHE = TeaCache(coefficients=(0.0, 0.0, 0.0, 1.0, 0.0))


def steps_and_checkpoints(events: Sequence[DenoiseEvent]) -> list[int | Checkpoint]:
    """What was told in between, in its order; of steps their numbers."""
    told: list[int | Checkpoint] = []
    for event in events:
        if isinstance(event, StepCompleted):
            told.append(event.step)
        elif isinstance(event, Checkpoint):
            told.append(event)
    return told


class Caller:
    """Hears what there is to hear of a request, however it ends.

    Attributes:
        events: so far.
    """

    def __init__(self, world: Scheduling, name: str, **options: object) -> None:
        self.events: list[DenoiseEvent] = []
        self._task = asyncio.create_task(self._hear(world, name, options))

    @property
    def told(self) -> list[int | Checkpoint]:
        return steps_and_checkpoints(self.events)

    async def end(self) -> None:
        """Waits for it; raises what it ended with."""
        await self._task

    async def _hear(self, world: Scheduling, name: str, options: dict[str, object]) -> None:
        async for event in world.stream(name, **options):  # type: ignore[arg-type]
            self.events.append(event)


async def test_a_caller_is_told_of_each_checkpoint_and_keeps_the_last_one() -> None:
    async with scheduling(checkpoint_steps=2) as world:
        events = await world.outcome(ONE, steps=6)
        two, four = checkpoint_after(2), checkpoint_after(4)
        # Each is stored beside the step that follows.
        assert steps_and_checkpoints(events) == [1, 2, two, 3, 4, four, 5, 6]
        assert world.ranks.kept == {ONE: 4}


async def test_a_request_goes_on_from_what_another_denoiser_has_saved() -> None:
    async with scheduling(checkpoint_steps=2) as world:
        events = await world.outcome(ONE, steps=8, resume_from=checkpoint_after(3))
        five, seven = checkpoint_after(5), checkpoint_after(7)
        assert steps_and_checkpoints(events) == [4, 5, five, 6, 7, seven, 8]
        assert isinstance(events[-1], Denoised)


async def test_with_a_cache_a_checkpoint_has_what_was_told_of_all_steps_before_it() -> None:
    async with scheduling(checkpoint_steps=2) as world:
        begun = await world.outcome(ONE, steps=6, cache=TEA_CACHE)
        first = next(event for event in begun if isinstance(event, Checkpoint))
        assert [step.step for step in first.steps] == [1, 2]
        # Whoever took them.
        resumed = await world.outcome(ONE, steps=6, cache=TEA_CACHE, resume_from=first)
        (last,) = (event for event in resumed if isinstance(event, Checkpoint))
        assert [step.step for step in last.steps] == [1, 2, 3, 4]
        uncached = await world.outcome(ONE, steps=6)
        assert not any(event.steps for event in uncached if isinstance(event, Checkpoint))


async def test_of_a_request_that_is_not_saved_here_what_it_came_with_is_kept() -> None:
    async with scheduling() as world:
        events = await world.outcome(ONE, steps=8, resume_from=checkpoint_after(6))
        assert steps_and_checkpoints(events) == [7, 8]
        assert world.ranks.kept == {ONE: 6}


async def test_a_checkpoint_that_cannot_be_read_costs_its_steps_and_not_the_request() -> None:
    async with scheduling() as world:

        async def gone(command: Command) -> None:
            if isinstance(command, Prepare) and command.resume is not None:
                raise TensorNotFound("released")

        world.ranks.on_command = gone
        events = await world.outcome(ONE, steps=4, resume_from=checkpoint_after(3))
        assert steps_and_checkpoints(events) == [1, 2, 3, 4]
        assert isinstance(events[-1], Denoised)


@pytest.mark.parametrize("checkpoint_steps", [0, 2])
async def test_a_denoiser_that_is_drained_saves_requests_at_their_next_step_and_hands_them_over(
    checkpoint_steps: int,
) -> None:
    async with scheduling(checkpoint_steps=checkpoint_steps) as world:
        hold = Hold(world.ranks, "step", ONE, 5)
        callers = [Caller(world, name, steps=20, can_hand_over=True) for name in (ONE, TWO)]
        await hold.reached.wait()
        world.scheduler.drain()
        hold.go.set()
        for name, caller in zip((ONE, TWO), callers, strict=True):
            with pytest.raises(HandedOver):
                await caller.end()
            *_, step, last = caller.told
            assert last == checkpoint_after(step)
            assert world.ranks.kept[name] == step
        assert callers[0].told[-2] == 5
        assert world.ranks.held == set()
        assert world.released == []


async def test_requests_that_wait_are_handed_over_at_once_with_what_they_came_with() -> None:
    async with scheduling(max_resident=1) as world:
        hold = Hold(world.ranks, "step", ONE)
        stays = world.start(ONE)
        await hold.reached.wait()
        waiting = world.start(TWO, can_hand_over=True, resume_from=checkpoint_after(2))
        await asyncio.sleep(0)
        world.scheduler.drain()
        hold.go.set()
        with pytest.raises(HandedOver):
            await waiting
        assert isinstance((await stays)[-1], Denoised)
        assert world.commands_for(TWO) == []


async def test_requests_that_nobody_else_can_go_on_with_are_finished_and_no_others_taken_in() -> (
    None
):
    async with scheduling(max_resident=1) as world:
        hold = Hold(world.ranks, "step", ONE, 2)
        tasks = [world.start(name, steps=5) for name in (ONE, TWO)]
        await hold.reached.wait()
        world.scheduler.drain()
        hold.go.set()
        with pytest.raises(StageUnavailable, match="draining"):
            await world.outcome("3" * 32, can_hand_over=True)
        for task in tasks:
            assert isinstance((await task)[-1], Denoised)


async def test_a_request_that_cannot_be_saved_is_finished_here() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "step", ONE, 3)
        task = world.start(ONE, steps=6, can_hand_over=True)
        await hold.reached.wait()

        async def full(command: Command) -> None:
            if isinstance(command, Save):
                raise StoreFull("no room")

        world.ranks.on_command = full
        world.scheduler.drain()
        hold.go.set()
        assert isinstance((await task)[-1], Denoised)
        assert world.commands_for(ONE).count("save") == 1


async def test_a_request_whose_steps_are_done_is_finished_here() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "step", ONE, 3)
        task = world.start(ONE, steps=3, can_hand_over=True)
        await hold.reached.wait()
        world.scheduler.drain()
        hold.go.set()
        assert isinstance((await task)[-1], Denoised)
        assert world.commands_for(ONE) == ["prepare", *["step"] * 3, "finish"]


async def test_a_request_that_has_come_no_further_than_its_checkpoint_is_not_saved_again() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "prepare", ONE)
        caller = Caller(world, ONE, steps=9, can_hand_over=True, resume_from=checkpoint_after(4))
        await hold.reached.wait()
        world.scheduler.drain()
        hold.go.set()
        with pytest.raises(HandedOver):
            await caller.end()
        assert caller.told == []
        assert world.commands_for(ONE) == ["prepare", "abort"]
        assert world.ranks.kept == {ONE: 4}


async def test_requests_whose_ranks_are_lost_meanwhile_are_handed_over_as_they_were() -> None:
    async with scheduling(checkpoint_steps=2) as world:
        hold = Hold(world.ranks, "step", ONE, 5)
        caller = Caller(world, ONE, steps=9, can_hand_over=True)
        await hold.reached.wait()

        async def die(command: Command) -> None:
            if isinstance(command, Save) and command.wait:
                world.ranks.die()

        world.ranks.on_command = die
        world.scheduler.drain()
        hold.go.set()
        # Nothing is ready to take it in again, and need not be.
        with pytest.raises(HandedOver):
            await caller.end()
        assert caller.told == [1, 2, checkpoint_after(2), 3, 4, checkpoint_after(4), 5]


async def test_a_request_that_ends_with_its_ranks_keeps_what_it_came_with() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "step", ONE, 2)
        task = world.start(ONE, steps=9, resume_from=checkpoint_after(4))
        await hold.reached.wait()
        world.ranks.die()
        hold.go.set()
        with pytest.raises(RanksLost):
            await task
        assert world.released == []
