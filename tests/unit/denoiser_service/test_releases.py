"""What is stored for a request that nobody waits for any more is released."""

import asyncio

import pytest

from tests.unit.denoiser_service.scheduling import Hold, scheduling
from triptych.domain.errors import Cancelled, Unavailable


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
        assert each.discarded == [("default", "a")]
