import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.domain.store_control import SweepReport
from services.rpc.store_calls import StoreCalls
from tests.unit.domain.examples import REQUEST_ID
from tests.unit.rpc.scripted_store import STATS, ScriptedStore
from triptych.domain.errors import Unavailable


class HungStore(ScriptedStore):
    """Answers no release and no sweep until the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = threading.Event()

    def release_request(self, tenant: str, request_id: str) -> int:
        assert self.may_answer.wait(30)
        return super().release_request(tenant, request_id)

    def sweep(self) -> SweepReport:
        assert self.may_answer.wait(30)
        return super().sweep()


@asynccontextmanager
async def _hung(**bounds: float) -> AsyncIterator[tuple[HungStore, StoreCalls]]:
    store = HungStore()
    calls = StoreCalls(store, **bounds)  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(20):
            yield store, calls
    finally:
        store.may_answer.set()
        calls.close()


async def test_a_store_that_hangs_leaves_the_event_loops_own_threads_alone() -> None:
    async with _hung() as (store, calls):
        releases = [
            asyncio.create_task(calls.release_request("default", REQUEST_ID)) for _ in range(64)
        ]
        await asyncio.sleep(0)
        assert await asyncio.to_thread(lambda: "served") == "served"
        store.may_answer.set()
        assert await asyncio.gather(*releases) == [2] * 64


async def test_a_call_is_waited_for_so_long_and_no_longer() -> None:
    async with _hung(seconds=0.01) as (_, calls):
        with pytest.raises(Unavailable, match=r"no answer within 0\.01 s"):
            await calls.release_request("default", REQUEST_ID)


async def test_a_call_beyond_the_most_that_may_wait_is_refused_at_once() -> None:
    async with _hung(threads=1, max_calls=2) as (store, calls):
        taken = [
            asyncio.create_task(calls.release_request("default", REQUEST_ID)) for _ in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too many calls wait"):
            await calls.stats()
        store.may_answer.set()
        await asyncio.gather(*taken)
        assert await calls.stats() == STATS


async def test_sweeps_that_hang_take_no_thread_of_the_calls() -> None:
    async with _hung(seconds=0.01, threads=1) as (_, calls):
        for _ in range(4):
            with pytest.raises(Unavailable):
                await calls.sweep()
    async with _hung(threads=1) as (_, calls):
        sweep = asyncio.create_task(calls.sweep())
        await asyncio.sleep(0)
        assert await calls.stats() == STATS
        sweep.cancel()
