"""How much every ledger keeps, and what it says of what it kept."""

from collections.abc import Mapping

import pytest

from services.jobs.ledger import Meaning
from services.jobs.record import (
    EVENT_OVERHEAD_BYTES,
    JOB_OVERHEAD_BYTES,
)
from services.jobs.retention import Retention
from tests.unit.jobs.benches import (
    BACKENDS,
    Bench,
    all_events,
    bench_of,
    claimed,
    ended,
    submission,
)
from tests.valkey_server import KeyValueServer
from triptych.domain.errors import (
    EventsExpired,
    JobExpired,
    JobNotFound,
    LedgerFull,
    RequestIdReused,
)
from triptych.domain.job import JobState


async def test_a_job_expires_after_its_time_and_leaves_a_tombstone(bench: Bench) -> None:
    key = await ended(bench.ledger, submission(b"accepted", request_id="mine"))
    await bench.ledger.submit(open_one := submission())
    retention = Retention()
    bench.clock.now += retention.ended_seconds - 1
    assert await bench.ledger.sweep() == 0
    bench.clock.now += 1
    assert await bench.ledger.sweep() == 1
    with pytest.raises(JobExpired, match="has ended and is no longer kept"):
        await bench.ledger.get(key)
    with pytest.raises(JobExpired):
        await all_events(bench.ledger, key)
    with pytest.raises(JobExpired):
        await bench.ledger.cancel(key, b"cancelled")
    with pytest.raises(JobExpired):
        await bench.ledger.submit(submission(request_id="mine"))
    with pytest.raises(RequestIdReused):
        await bench.ledger.submit(submission(request_id="mine", fingerprint="other"))
    # One that has not ended never goes.
    page = await bench.ledger.list_jobs("ada")
    assert [record.key for record in page.records] == [open_one.key]
    assert (await bench.ledger.usage()).tombstones == 1
    bench.clock.now += retention.tombstone_seconds
    assert await bench.ledger.sweep() == 1
    with pytest.raises(JobNotFound):
        await bench.ledger.get(key)
    again = await bench.ledger.submit(submission(request_id="mine", fingerprint="other"))
    assert again.meaning is Meaning.NEW


async def test_a_watcher_whose_job_expires_is_told(bench: Bench) -> None:
    key = await ended(bench.ledger, submission(b"1", b"2"))
    watching = bench.ledger.watch(key)
    # It took some, and came back too late for the rest.
    first = await anext(watching)
    assert first.data == b"1"
    await watching.aclose()
    bench.clock.now += Retention().ended_seconds
    await bench.ledger.sweep()
    with pytest.raises(JobExpired):
        await all_events(bench.ledger, key, first.sequence)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


async def test_the_first_events_of_a_job_that_has_too_many_go(
    ledger_servers: Mapping[str, KeyValueServer], backend: str
) -> None:
    limit = 10 * (EVENT_OVERHEAD_BYTES + 1)
    async with bench_of(ledger_servers, backend, Retention(max_event_bytes=limit)) as bench:
        await bench.ledger.submit(submission(b"a"))
        claim = await claimed(bench.ledger)
        await bench.ledger.append(claim, [b"b"] * 11)
        with pytest.raises(EventsExpired, match=r"is 1; .* allowed is 2 or later"):
            await all_events(bench.ledger, claim.key, 1)
        await bench.ledger.append(claim, [b"c" * 2 * limit])
        record = await bench.ledger.get(claim.key)
        # The last one stays, whatever its size.
        assert (record.first_sequence, record.last_sequence) == (13, 13)
        await bench.ledger.finish(claim, JobState.FAILED, b"", [b"d"])
        assert [e.sequence for e in await all_events(bench.ledger, claim.key, 13)] == [14]
        record = await bench.ledger.get(claim.key)
        kept = JOB_OVERHEAD_BYTES + len(b"parameters") + EVENT_OVERHEAD_BYTES + 1
        assert record.size_bytes == (await bench.ledger.usage()).size_bytes == kept


async def test_ended_jobs_make_room_and_others_do_not(
    ledger_servers: Mapping[str, KeyValueServer], backend: str
) -> None:
    room = 3 * (JOB_OVERHEAD_BYTES + 200)
    async with bench_of(ledger_servers, backend, Retention(max_bytes=room)) as bench:
        old = await ended(bench.ledger, submission())
        bench.clock.now += 1
        young = await ended(bench.ledger, submission())
        await bench.ledger.submit(submission())
        assert (await bench.ledger.usage()).ended == 2
        await bench.ledger.submit(submission())
        with pytest.raises(JobExpired):
            await bench.ledger.get(old)
        await bench.ledger.get(young)
        # What would be refused all the same costs nobody anything.
        with pytest.raises(LedgerFull, match=f"bytes of {room}"):
            await bench.ledger.submit(submission(parameters=b"x" * JOB_OVERHEAD_BYTES))
        await bench.ledger.get(young)
        await bench.ledger.submit(submission())
        with pytest.raises(JobExpired):
            await bench.ledger.get(young)
        with pytest.raises(LedgerFull):
            await bench.ledger.submit(submission())
        # Those who run go on.
        claim = await claimed(bench.ledger)
        await bench.ledger.append(claim, [b"x" * room])
        await bench.ledger.finish(claim, JobState.SUCCEEDED, b"", [])
        assert (await bench.ledger.usage()).size_bytes > room
        assert await bench.ledger.sweep() == 1
        assert (await bench.ledger.usage()).size_bytes < room


async def test_tombstones_are_bounded(
    ledger_servers: Mapping[str, KeyValueServer], backend: str
) -> None:
    bounds = Retention(max_tombstones=2, ended_seconds=1)
    async with bench_of(ledger_servers, backend, bounds) as bench:
        keys = []
        for _ in range(4):
            keys.append(await ended(bench.ledger, submission()))
            bench.clock.now += 1
            await bench.ledger.sweep()
        assert (await bench.ledger.usage()).tombstones == 2
        with pytest.raises(JobNotFound):
            await bench.ledger.get(keys[1])
        with pytest.raises(JobExpired):
            await bench.ledger.get(keys[2])
