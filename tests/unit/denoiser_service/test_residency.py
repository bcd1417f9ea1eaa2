import asyncio
from contextlib import aclosing

import pytest

from services.domain.stages import DenoiseStarted
from tests.unit.denoiser_service.scheduling import Hold, scheduling
from triptych.domain.acceleration import Cache, CacheDit, NoCache, TeaCache
from triptych.domain.errors import InvalidRequest, QueueFull

TEA_CACHE = TeaCache(coefficients=(0.0, 0.0, 0.0, 1.0, 0.0))


async def test_a_request_waits_until_what_the_ranks_hold_leaves_room_for_it() -> None:
    async with scheduling(max_resident_bytes=250) as each:
        hold = Hold(each.ranks, "prepare", "a")
        tasks = [each.start(name) for name in "abc"]
        await hold.reached.wait()
        assert each.scheduler.reserved_bytes == 100
        hold.go.set()
        await asyncio.gather(*tasks)
        assert each.ranks.most_resident == 2
        assert (each.scheduler.held_bytes, each.scheduler.reserved_bytes) == (0, 0)


async def test_what_a_request_was_measured_to_take_counts_if_it_is_more_than_expected() -> None:
    async with scheduling(max_resident_bytes=250) as each:
        each.ranks.held_bytes = 160
        hold = Hold(each.ranks, "step", "a")
        tasks = [each.start(name) for name in "ab"]
        await hold.reached.wait()
        assert (each.scheduler.held_bytes, each.scheduler.reserved_bytes) == (160, 160)
        hold.go.set()
        await asyncio.gather(*tasks)
        assert each.ranks.most_resident == 1


async def test_a_full_queue_counts_those_for_whom_there_is_no_memory() -> None:
    async with scheduling(max_resident_bytes=100, max_queued=1) as each:
        hold = Hold(each.ranks, "step", "a")
        tasks = [each.start("a"), each.start("b")]
        await hold.reached.wait()
        with pytest.raises(QueueFull):
            await each.outcome("c")
        hold.go.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("cache", "limit", "refused"),
    [
        (NoCache(), 99, "width: and height are .*; that takes 100 bytes .* at most 99$"),
        (TEA_CACHE, 139, "acceleration.cache: is tea_cache; with it .* 140 bytes .* most 139$"),
        (CacheDit(), 149, "acceleration.cache: is cache_dit; with it .* 150 bytes .* most 149$"),
        (CacheDit(taylorseer_order=1), 239, "acceleration.cache: .* 240 bytes"),
    ],
    ids=["none", "tea_cache", "cache_dit", "taylorseer"],
)
async def test_what_would_not_fit_alone_is_refused_before_any_command(
    cache: Cache, limit: int, refused: str
) -> None:
    async with scheduling(max_resident_bytes=limit) as each:
        with pytest.raises(InvalidRequest, match=refused):
            await each.outcome("a", cache=cache, steps=8)
        assert each.ranks.commands == []
    async with scheduling(max_resident_bytes=limit + 1) as each:
        async with aclosing(each.stream("a", cache=cache, steps=8)) as events:
            assert await anext(events) == DenoiseStarted()
        assert await each.outcome("b")
