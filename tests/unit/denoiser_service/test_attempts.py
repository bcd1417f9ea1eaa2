"""A job's attempts in the step loop: the latest that came is at work, and no earlier one."""

import asyncio

import pytest

from services.domain.stages import Denoised
from tests.unit.denoiser_service.scheduling import (
    PREVIEWS,
    Hold,
    latents_of,
    passed,
    scheduling,
)
from triptych.domain.deadline import Deadline
from triptych.domain.errors import AlreadyExists, DeadlineExceeded, Superseded, Unavailable


async def test_a_later_attempt_ends_an_earlier_one_at_its_next_step_and_then_runs() -> None:
    async with scheduling() as world:
        world.ranks.previews = PREVIEWS
        hold = Hold(world.ranks, "step", "a", 2)
        earlier = world.start("a", steps=6, attempt=1)
        await hold.reached.wait()
        later = world.start("a", steps=2, attempt=2)
        await asyncio.sleep(0)
        world.ranks.previews = {}
        hold.go.set()
        with pytest.raises(Superseded, match="attempt: is 1"):
            await earlier
        assert isinstance((await later)[-1], Denoised)
        steps = ["step"] * 2
        assert world.commands_for("a") == [
            *("prepare", *steps, "abort"),
            *("prepare", *steps, "finish"),
        ]
        assert await world.releases(1) == [PREVIEWS[1]]


async def test_a_later_attempt_ends_those_that_wait_and_all_results_of_its_job() -> None:
    async with scheduling(max_resident=1) as world:
        hold = Hold(world.ranks, "step", "a")
        earlier = [world.start("a", attempt=1, image_index=index) for index in range(3)]
        await hold.reached.wait()
        later = world.start("a", attempt=2, image_index=1)
        await asyncio.sleep(0)
        hold.go.set()
        for task in earlier:
            with pytest.raises(Superseded):
                await task
        assert isinstance((await later)[-1], Denoised)


async def test_latents_of_an_attempt_that_was_superseded_while_they_were_stored_are_released() -> (
    None
):
    async with scheduling() as world:
        hold = Hold(world.ranks, "finish", "a")
        earlier = world.start("a", attempt=1)
        await hold.reached.wait()
        later = world.start("a", attempt=2)
        await asyncio.sleep(0)
        hold.go.set()
        with pytest.raises(Superseded):
            await earlier
        assert isinstance((await later)[-1], Denoised)
        assert await world.releases(1) == [latents_of("a")]


async def test_an_earlier_attempt_is_refused_and_disturbs_nobody() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "step", "a")
        later = world.start("a", attempt=2)
        await hold.reached.wait()
        with pytest.raises(Superseded, match="attempt: is 1"):
            await world.outcome("a", attempt=1)
        hold.go.set()
        assert isinstance((await later)[-1], Denoised)
        with pytest.raises(Superseded, match="attempt: is 1"):
            await world.outcome("a", attempt=1)


async def test_the_same_attempt_twice_at_once_is_refused() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "step", "a")
        first = world.start("a", attempt=3)
        await hold.reached.wait()
        with pytest.raises(AlreadyExists, match="request_id: a is being denoised already"):
            await world.outcome("a", attempt=3)
        hold.go.set()
        assert isinstance((await first)[-1], Denoised)


async def test_an_attempt_whose_call_was_given_up_may_call_again_at_once() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "step", "a")
        given_up = world.start("a", attempt=3)
        await hold.reached.wait()
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        again = world.start("a", attempt=3)
        await asyncio.sleep(0)
        hold.go.set()
        assert isinstance((await again)[-1], Denoised)
        assert world.commands_for("a")[:4] == ["prepare", "step", "abort", "prepare"]


async def test_without_an_attempt_a_call_that_comes_too_early_is_asked_to_come_again() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "step", "a")
        given_up = world.start("a")
        await hold.reached.wait()
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        with pytest.raises(Unavailable, match="request_id: a is leaving this denoiser"):
            await world.outcome("a")
        hold.go.set()
        await world.outcome("b")


async def test_an_attempt_waits_for_an_earlier_one_no_longer_than_its_deadline() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "step", "a")
        earlier = world.start("a", attempt=1)
        await hold.reached.wait()
        with pytest.raises(DeadlineExceeded, match="while an earlier call was leaving"):
            await world.outcome("a", attempt=2, deadline=Deadline.after(0.01))
        hold.go.set()
        with pytest.raises(Superseded):
            await earlier


async def test_an_attempt_that_ends_by_itself_holds_no_later_one_up() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "step", "a")
        deadline = Deadline.after(600)
        earlier = world.start("a", attempt=1, deadline=deadline)
        await hold.reached.wait()
        passed(deadline)
        later = world.start("a", attempt=2)
        await asyncio.sleep(0)
        hold.go.set()
        with pytest.raises(DeadlineExceeded, match="1 of 3 steps were done"):
            await earlier
        assert isinstance((await later)[-1], Denoised)


async def test_an_attempt_ends_an_earlier_one_whose_ranks_are_gone() -> None:
    async with scheduling(checkpoint_steps=2) as world:
        hold = Hold(world.ranks, "step", "a", 4)
        earlier = world.start("a", steps=8, attempt=1)
        await hold.reached.wait()
        world.ranks.die()
        hold.go.set()
        while world.scheduler.running:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0)
        later = world.start("a", steps=8, attempt=2)
        with pytest.raises(Superseded):
            await earlier
        world.ranks.rebuild()
        assert isinstance((await later)[-1], Denoised)
