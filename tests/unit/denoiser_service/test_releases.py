"""What is stored for a request that nobody waits for any more is released."""

import asyncio
import threading
from typing import cast

import pytest

from denoiser_service.rank.commands import Command
from services.domain.stages import Denoised
from services.domain.store_control import StoreControl
from services.rpc.store_calls import StoreCalls
from tests.unit.denoiser_service.scheduling import Hold, scheduling
from triptych.domain.errors import Cancelled, NotFound, RanksLost, TriptychError, Unavailable


async def test_latents_that_come_after_the_caller_left_are_discarded() -> None:
    async with scheduling() as each:
        hold = Hold(each.ranks, "finish", "a")
        task = each.start("a")
        await hold.reached.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert each.discarded == []
        hold.go.set()
        await each.outcome("b")
        assert each.discarded == [("default", "a")]


async def test_what_was_stored_for_whoever_leaves_is_released() -> None:
    async with scheduling(max_resident=1) as each:
        hold = Hold(each.ranks, "step", "a")
        running, waiting = each.start("a"), each.start("b")
        await hold.reached.wait()
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        hold.go.set()
        await each.outcome("c")
        while len(each.discarded) < 2:  # noqa: ASYNC110 - nobody waits for a release
            await asyncio.sleep(0)
        assert sorted(each.discarded) == [("default", "a"), ("default", "b")]
        assert each.commands_for("a") == ["prepare", "step", "abort"]


async def test_a_store_that_releases_nothing_now_holds_nobody_up() -> None:
    async def refuse(tenant: str, request_id: str) -> None:
        raise Unavailable("tensor store: the server is gone")

    async with scheduling() as each:
        each.release = refuse
        hold = Hold(each.ranks, "step", "a")
        task = each.start("a")
        await hold.reached.wait()
        each.scheduler.cancel("a")
        hold.go.set()
        with pytest.raises(Cancelled, match="1 of 3 steps were done"):
            await task
        await each.outcome("b")


async def test_latents_of_a_request_cancelled_by_name_are_not_handed_out() -> None:
    async with scheduling() as each:
        hold = Hold(each.ranks, "finish", "a")
        task = each.start("a")
        await hold.reached.wait()
        each.scheduler.cancel("a")
        hold.go.set()
        with pytest.raises(Cancelled):
            await task
        await each.outcome("b")
        assert each.discarded == [("default", "a")]


async def test_a_store_that_hangs_holds_no_step_up_when_latents_are_given_back() -> None:
    async def hang(tenant: str, request_id: str) -> None:
        await asyncio.Event().wait()

    async with scheduling() as each:
        each.release = hang
        hold = Hold(each.ranks, "finish", "a")
        leaving, other = each.start("a"), each.start("b", steps=8)
        await hold.reached.wait()
        each.scheduler.cancel("a")
        hold.go.set()
        with pytest.raises(Cancelled, match="while the latents were being stored"):
            await leaving
        assert isinstance((await other)[-1], Denoised)


async def test_a_store_that_hangs_takes_no_thread_that_others_need() -> None:
    go = threading.Event()

    class HungStore:
        def release_request(self, tenant: str, request_id: str) -> int:
            go.wait()
            return 0

    calls = StoreCalls(cast("StoreControl", HungStore()))
    try:
        async with scheduling(max_resident=1, max_queued=64) as each:
            each.release = calls.release_request
            hold = Hold(each.ranks, "step", "a")
            running = each.start("a")
            await hold.reached.wait()
            leaving = [each.start(f"leaving {number}") for number in range(40)]
            await asyncio.sleep(0)
            for number in range(40):
                each.scheduler.cancel(f"leaving {number}")
            hold.go.set()
            await asyncio.gather(running, *leaving, return_exceptions=True)
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

    async with scheduling() as each:
        hold = Hold(each.ranks, "step", "a")
        task = each.start("a")
        await hold.reached.wait()
        each.scheduler.cancel("a")
        each.ranks.on_command = refuse
        hold.go.set()
        with pytest.raises(Cancelled, match="1 of 3 steps were done"):
            await task
        while not each.discarded:  # noqa: ASYNC110 - nobody waits for a release
            await asyncio.sleep(0)
        assert each.discarded == [("default", "a")]
