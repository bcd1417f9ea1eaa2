import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from services.jobs.ledger import JobLedger
from services.jobs.retention import Retention
from services.jobs.usage_watch import LOOK_SECONDS, UsageWatch
from services.observability import metrics
from services.observability.metrics import Gauge
from tests.unit.jobs.benches import ended, submission
from tests.unit.jobs.scripted_ledger import ScriptedLedger
from tests.unit.jobs.virtual_time import in_virtual_time


def read(gauge: Gauge) -> Mapping[str, float]:
    """Its values by the only label it may have."""
    return {
        dict(each.attributes or {}).get("state", ""): each.value
        for each in gauge._read(cast(object, None))
    }


@contextmanager
def watching(ledger: ScriptedLedger) -> Iterator[None]:
    watch = UsageWatch(cast(JobLedger, ledger), Retention(max_bytes=1000))
    running = asyncio.create_task(watch.run())
    try:
        yield
        assert not running.done()
    finally:
        running.cancel()


@in_virtual_time
async def test_it_is_said_what_the_ledger_holds_and_how_much_it_may() -> None:
    ledger = ScriptedLedger()
    await ended(ledger.kept, submission())
    await ledger.claimed()
    await ledger.kept.submit(submission())
    with watching(ledger):
        await asyncio.sleep(1)
        held = {"queued": 1, "held": 1, "ended": 1, "tombstone": 0}
        assert read(metrics.LEDGER_JOBS) == held
        assert read(metrics.LEDGER_USED_BYTES) == {"": (await ledger.kept.usage()).size_bytes}
        assert read(metrics.LEDGER_LIMIT_BYTES) == {"": 1000}
        assert read(metrics.LEDGER_REACHABLE) == {"": 1}
        await ledger.kept.submit(submission())
        await asyncio.sleep(LOOK_SECONDS)
        assert read(metrics.LEDGER_JOBS) == held | {"queued": 2}


@in_virtual_time
async def test_nothing_is_said_of_a_ledger_that_is_away_but_that_it_is() -> None:
    ledger = ScriptedLedger()
    await ledger.kept.submit(submission())
    ledger.away_until = 3 * LOOK_SECONDS
    with watching(ledger):
        await asyncio.sleep(LOOK_SECONDS)
        assert read(metrics.LEDGER_REACHABLE) == {"": 0}
        assert read(metrics.LEDGER_JOBS) == read(metrics.LEDGER_USED_BYTES) == {}
        await asyncio.sleep(3 * LOOK_SECONDS)
        assert read(metrics.LEDGER_REACHABLE) == {"": 1}
        assert read(metrics.LEDGER_JOBS)["queued"] == 1
