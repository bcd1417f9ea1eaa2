"""What those who watch and list are given by every ledger."""

import asyncio

import pytest

from services.jobs.record import (
    JobKey,
)
from tests.unit.jobs.benches import (
    LEASE_SECONDS,
    Bench,
    all_events,
    claimed,
    submission,
)
from triptych.domain.errors import (
    Cancelled,
    ClaimLost,
    InvalidRequest,
)
from triptych.domain.job import JobState


async def test_a_watcher_gets_all_events_once_and_in_order_wherever_it_begins(
    bench: Bench,
) -> None:
    await bench.ledger.submit(submission(b"1"))
    claim = await claimed(bench.ledger)
    watched = {
        after: asyncio.create_task(all_events(bench.doors[1], claim.key, after)) for after in (0, 1)
    }
    for number in range(2, 252):
        # Some one by one, some together, so that readers are behind as well as abreast.
        await bench.ledger.append(claim, [str(number).encode()])
        if number % 50 == 0:
            watched[number] = asyncio.create_task(all_events(bench.doors[1], claim.key, number))
    await bench.ledger.append(claim, [str(number).encode() for number in range(252, 400)])
    await bench.ledger.finish(claim, JobState.SUCCEEDED, b"", [b"400"])
    for after, watching in watched.items():
        events = await watching
        assert [event.sequence for event in events] == list(range(after + 1, 401))
        assert all(event.data == str(event.sequence).encode() for event in events)
    assert await all_events(bench.ledger, claim.key, 400) == []


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when somebody begins to wait, who then waits for news alone."""
    begun = asyncio.Event()

    async def wait(heard: asyncio.Event, seconds: float) -> None:
        begun.set()
        await heard.wait()

    for ledger in ("memory_ledger", "redis_ledger"):
        monkeypatch.setattr(f"services.jobs.{ledger}.heard_within", wait)
    return begun


async def test_a_watcher_that_waits_is_told_of_what_happens_at_another_door(
    bench: Bench, waiting: asyncio.Event
) -> None:
    await bench.ledger.submit(submission())
    claim = await claimed(bench.ledger)
    watching = bench.doors[1].watch(claim.key)
    # Several times: it looks once more when its door begins to hear.
    for number in range(4):
        waiting.clear()
        coming = asyncio.ensure_future(anext(watching))
        await waiting.wait()
        await bench.doors[0].append(claim, [b"%d" % number])
        async with asyncio.timeout(30):
            assert (await coming).data == b"%d" % number
    waiting.clear()
    ending = asyncio.ensure_future(anext(watching, None))
    await waiting.wait()
    await bench.doors[0].finish(claim, JobState.SUCCEEDED, b"", [])
    async with asyncio.timeout(30):
        assert await ending is None


async def test_events_that_are_not_there_yet_cannot_be_skipped(bench: Bench) -> None:
    given = submission(b"1", b"2")
    await bench.ledger.submit(given)
    for after in (3, -1):
        with pytest.raises(InvalidRequest, match=f"after_sequence: is {after}; allowed are 0 to 2"):
            await all_events(bench.ledger, given.key, after)


async def test_a_worker_that_waits_is_told_of_work_at_another_door(
    bench: Bench, waiting: asyncio.Event
) -> None:
    for _ in range(3):
        waiting.clear()
        idle = asyncio.ensure_future(bench.doors[1].wait_for_work(60))
        await waiting.wait()
        await bench.doors[0].submit(submission())
        async with asyncio.timeout(30):
            await idle
            # There is some already.
            await bench.doors[1].wait_for_work(60)
        await claimed(bench.ledger)


async def test_a_worker_is_told_at_once_that_its_job_was_cancelled_at_another_door(
    bench: Bench, waiting: asyncio.Event
) -> None:
    # Several times: it looks once more when its door begins to hear.
    for _ in range(3):
        waiting.clear()
        await bench.ledger.submit(submission())
        claim = await claimed(bench.ledger)
        losing = asyncio.ensure_future(bench.ledger.wait_lost(claim))
        await waiting.wait()
        await bench.doors[1].append(claim, [b"step"])
        assert not losing.done()
        await bench.doors[1].cancel(claim.key, b"cancelled")
        async with asyncio.timeout(30):
            with pytest.raises(Cancelled, match=claim.key.job_id):
                await losing
        with pytest.raises(Cancelled):
            await bench.ledger.wait_lost(claim)


async def test_a_worker_is_told_at_once_that_another_has_its_job(
    bench: Bench, waiting: asyncio.Event
) -> None:
    for _ in range(3):
        waiting.clear()
        await bench.ledger.submit(submission())
        old = await claimed(bench.ledger)
        losing = asyncio.ensure_future(bench.ledger.wait_lost(old))
        await waiting.wait()
        bench.clock.now += LEASE_SECONDS
        new = await claimed(bench.doors[1])
        async with asyncio.timeout(30):
            with pytest.raises(ClaimLost, match=old.key.job_id):
                await losing
        await bench.doors[1].finish(new, JobState.SUCCEEDED, b"", [])
        for claim in (old, new):
            with pytest.raises(ClaimLost):
                await bench.ledger.wait_lost(claim)


async def test_nobody_waits_for_work_for_longer_than_told(bench: Bench) -> None:
    await bench.ledger.wait_for_work(0.001)


async def test_pages_have_each_job_once_newest_first(bench: Bench) -> None:
    given = [submission() for _ in range(7)]
    for each in given:
        await bench.ledger.submit(each)
        await bench.ledger.submit(submission(tenant="bob"))
    await bench.ledger.cancel(given[2].key, b"cancelled")
    await bench.ledger.cancel(given[5].key, b"cancelled")
    found: list[JobKey] = []
    token = ""
    for _ in range(4):
        page = await bench.ledger.list_jobs("ada", page_size=2, page_token=token)
        found += [record.key for record in page.records]
        token = page.next_page_token
    assert found == [each.key for each in reversed(given)]
    assert token == ""
    cancelled = await bench.ledger.list_jobs("ada", states={JobState.CANCELLED})
    assert [record.key for record in cancelled.records] == [given[5].key, given[2].key]
    assert cancelled.next_page_token == ""
    one = await bench.ledger.list_jobs("ada", states={JobState.CANCELLED}, page_size=1)
    two = await bench.ledger.list_jobs(
        "ada", states={JobState.CANCELLED}, page_size=1, page_token=one.next_page_token
    )
    assert (*one.records, *two.records) == cancelled.records


@pytest.mark.parametrize("token", ["x", "-1", "1" * 40, "\u0661", "1 2"])
async def test_a_page_token_of_nobody_is_refused(bench: Bench, token: str) -> None:
    with pytest.raises(InvalidRequest, match="page_token: is "):
        await bench.ledger.list_jobs("ada", page_token=token)


@pytest.mark.parametrize("size", [-1, 1001])
async def test_a_page_size_that_is_not_allowed_is_refused(bench: Bench, size: int) -> None:
    with pytest.raises(InvalidRequest, match=f"page_size: is {size}; allowed are 0 .* to 1000"):
        await bench.ledger.list_jobs("ada", page_size=size)
