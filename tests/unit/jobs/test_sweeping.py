import asyncio
from typing import cast

import pytest

from services.jobs.ledger import JobLedger
from services.jobs.retention import Retention
from services.jobs.sweeping import sweep_forever
from tests.unit.jobs.benches import ended, submission
from tests.unit.jobs.scripted_ledger import ScriptedLedger
from tests.unit.jobs.virtual_time import in_virtual_time
from triptych.domain.errors import JobExpired


@in_virtual_time
async def test_jobs_that_have_expired_go_though_the_ledger_was_away_for_a_while() -> None:
    ledger = ScriptedLedger()
    key = await ended(ledger.kept, submission())
    kept_seconds = Retention().ended_seconds
    ledger.away_until = kept_seconds + 90
    sweeping = asyncio.create_task(sweep_forever(cast(JobLedger, ledger), 60))
    await asyncio.sleep(kept_seconds + 80)
    await ledger.kept.get(key)
    await asyncio.sleep(70)
    with pytest.raises(JobExpired):
        await ledger.kept.get(key)
    assert not sweeping.done()
    sweeping.cancel()
