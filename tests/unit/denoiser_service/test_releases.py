"""What a call stored that nobody waits for any more is released; nothing else of its request is."""

import asyncio
import threading
from contextlib import aclosing
from typing import cast

import pytest

from denoiser_service.rank.commands import Command
from services.domain.stages import Denoised, DenoiseStarted
from services.domain.store_control import StoreControl
from services.domain.tensor_ref import TensorRef
from services.rpc.store_calls import StoreCalls
from tests.unit.denoiser_service.scheduling import PREVIEWS, Hold, latents_of, scheduling
from triptych.domain.errors import Cancelled, NotFound, RanksLost, TriptychError, Unavailable


async def test_latents_that_come_after_the_caller_left_are_released() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "finish", "a")
        task = world.start("a")
        await hold.reached.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert world.released == []
        hold.go.set()
        await world.outcome("b")
        assert await world.releases(1) == [latents_of("a")]


async def test_latents_that_the_caller_did_not_stay_for_are_released() -> None:
    async with scheduling() as world:
        async with aclosing(world.stream("a")) as events:
            assert isinstance(await anext(events), DenoiseStarted)
            while world.scheduler.running:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0)
        assert await world.releases(1) == [latents_of("a")]


async def test_latents_that_the_caller_has_are_its_own() -> None:
    async with scheduling() as world:
        world.ranks.previews = PREVIEWS
        await world.outcome("a")
        await world.outcome("b")
        assert world.released == []


async def test_what_was_stored_of_whoever_leaves_is_released() -> None:
    async with scheduling(max_resident=1) as world:
        world.ranks.previews = PREVIEWS
        hold = Hold(world.ranks, "step", "a", 3)
        running, waiting = world.start("a"), world.start("b")
        await hold.reached.wait()
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        hold.go.set()
        world.ranks.previews = {}
        await world.outcome("c")
        assert await world.releases(2) == list(PREVIEWS.values())
        assert world.commands_for("a") == ["prepare", *["step"] * 3, "abort"]


@pytest.mark.parametrize("failing", [TriptychError("it failed"), RanksLost("a rank died")])
async def test_what_was_stored_of_a_request_that_fails_is_released(failing: TriptychError) -> None:
    async def fail(command: Command) -> None:
        if command.kind == "finish":
            raise failing

    async with scheduling() as world:
        world.ranks.previews = PREVIEWS
        world.ranks.on_command = fail
        with pytest.raises(type(failing)):
            await world.outcome("a")
        assert await world.releases(2) == list(PREVIEWS.values())


async def test_a_store_that_releases_nothing_now_holds_nobody_up() -> None:
    async def refuse(ref: TensorRef) -> None:
        raise Unavailable("tensor store: the server is gone")

    async with scheduling() as world:
        world.ranks.previews = PREVIEWS
        world.release = refuse
        hold = Hold(world.ranks, "step", "a", 3)
        task = world.start("a")
        await hold.reached.wait()
        world.scheduler.cancel("a")
        hold.go.set()
        with pytest.raises(Cancelled, match="3 of 3 steps were done"):
            await task
        await world.outcome("b")


async def test_latents_of_a_request_cancelled_by_name_are_not_handed_out() -> None:
    async with scheduling() as world:
        hold = Hold(world.ranks, "finish", "a")
        task = world.start("a")
        await hold.reached.wait()
        world.scheduler.cancel("a")
        hold.go.set()
        with pytest.raises(Cancelled):
            await task
        await world.outcome("b")
        assert await world.releases(1) == [latents_of("a")]


async def test_a_store_that_hangs_holds_no_step_up_when_latents_are_given_back() -> None:
    async def hang(ref: TensorRef) -> None:
        await asyncio.Event().wait()

    async with scheduling() as world:
        world.release = hang
        hold = Hold(world.ranks, "finish", "a")
        leaving, other = world.start("a"), world.start("b", steps=8)
        await hold.reached.wait()
        world.scheduler.cancel("a")
        hold.go.set()
        with pytest.raises(Cancelled, match="while the latents were being stored"):
            await leaving
        assert isinstance((await other)[-1], Denoised)


async def test_a_store_that_hangs_takes_no_thread_that_others_need() -> None:
    go = threading.Event()

    class HungStore:
        def release(self, ref: TensorRef) -> bool:
            return go.wait()

    calls = StoreCalls(cast("StoreControl", HungStore()))
    try:
        async with scheduling(max_resident=40) as world:
            world.ranks.previews = PREVIEWS
            world.release = calls.release
            hold = Hold(world.ranks, "step", "last", 2)
            tasks = [world.start(f"leaving {number}") for number in range(39)]
            tasks.append(world.start("last"))
            await hold.reached.wait()
            for task in tasks:
                task.cancel()
            hold.go.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            await world.outcome("next")
            # The event loop's own threads are fewer than those who left.
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 10) == "done"
    finally:
        go.set()
        calls.close()


@pytest.mark.parametrize(
    "failure", [NotFound("it is not being denoised here"), RanksLost("a rank died")]
)
async def test_what_was_stored_is_released_even_if_the_ranks_cannot_forget_the_request(
    failure: TriptychError,
) -> None:
    async def refuse(command: Command) -> None:
        if command.kind == "abort":
            raise failure

    async with scheduling() as world:
        world.ranks.previews = PREVIEWS
        hold = Hold(world.ranks, "step", "a", 2)
        task = world.start("a")
        await hold.reached.wait()
        world.scheduler.cancel("a")
        world.ranks.on_command = refuse
        hold.go.set()
        with pytest.raises(Cancelled, match="2 of 3 steps were done"):
            await task
        assert await world.releases(2) == list(PREVIEWS.values())
