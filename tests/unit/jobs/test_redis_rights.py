"""The user that the documentation gives a gateway may do all that a gateway does."""

import re
from contextlib import aclosing
from pathlib import Path

from services.jobs.record import OutputSlot
from services.jobs.redis_ledger import RedisLedger
from services.jobs.retention import Retention
from tests.unit.jobs.benches import KEPT, LEASE_SECONDS, all_events, submission
from tests.valkey_server import key_value_server
from triptych.domain.job import JobState
from triptych.domain.stage_timing import StageTask

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"
_RULES = re.compile(r"^ACL SETUSER gateway on >PASSWORD (.*)$", re.MULTILINE)


async def test_the_documented_user_may_do_all_that_a_gateway_does(tmp_path: Path) -> None:
    (rules,) = _RULES.findall(PAGE.read_text())
    (tmp_path / "password").write_text("PASSWORD")
    retention = Retention(ended_seconds=1e-3, tombstone_seconds=1e-3)
    with key_value_server(*KEPT) as server:
        server.client().execute_command(f"ACL SETUSER gateway on >PASSWORD {rules}")
        user = f"username=gateway&password_file={tmp_path}/password"
        ledger = await RedisLedger.open(f"{server.url}?fsync=everysec&{user}", retention)
        try:
            asked = submission(b"accepted", request_id="mine")
            assert (await ledger.submit(asked)).record == (await ledger.submit(asked)).record
            await ledger.wait_for_work(10)
            claim = await ledger.claim("worker", LEASE_SECONDS)
            assert claim is not None
            async with aclosing(ledger.watch(claim.key)) as watched:
                assert (await anext(watched)).data == b"accepted"
                await ledger.renew(claim, LEASE_SECONDS)
                await ledger.append(claim, [b"started"], completed_steps=1)
                assert (await anext(watched)).data == b"started"
            await ledger.advance(claim, OutputSlot(StageTask.DENOISE), b"latents", [b"done"])
            await ledger.count_failure(claim, StageTask.DECODE)
            await ledger.give_back(claim)
            claim = await ledger.claim("worker", LEASE_SECONDS)
            assert claim is not None
            await ledger.finish(claim, JobState.SUCCEEDED, b"result", [b"completed"])
            other = (await ledger.submit(submission())).record
            await ledger.cancel(other.key, b"cancelled")
            assert [each.data for each in await all_events(ledger, other.key)] == [b"cancelled"]
            assert len((await ledger.list_jobs("ada")).records) == 2
            assert await ledger.open_jobs("ada") == 0
            while await ledger.sweep() or (await ledger.usage()).ended:
                pass
            while (await ledger.usage()).tombstones:
                await ledger.sweep()
        finally:
            await ledger.close()
        denied = server.client().execute_command("ACL LOG")
    assert denied == []
