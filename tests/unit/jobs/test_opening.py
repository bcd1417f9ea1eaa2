import builtins
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from services.jobs.opening import open_ledger
from services.jobs.retention import Retention
from tests.unit.jobs.benches import submission
from tests.valkey_server import KeyValueServer
from triptych.domain.errors import ConfigurationError, LedgerFull
from triptych.domain.job import JobState


async def test_a_ledger_in_memory_keeps_as_much_as_it_is_told(
    ledger_servers: Mapping[str, KeyValueServer],
) -> None:
    for url in ("memory:", f"{ledger_servers['valkey'].url}?fsync=everysec&key_prefix=opened"):
        ledger = await open_ledger(url, Retention(max_bytes=10_000))
        try:
            record = (await ledger.submit(submission())).record
            assert record.state is JobState.QUEUED
            with pytest.raises(LedgerFull, match="of 10000"):
                await ledger.submit(submission())
        finally:
            await ledger.close()


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("", "jobs: '' has the scheme ''; allowed are memory, redis, rediss, redis.unix"),
        ("shm:///dev/shm/jobs", "jobs: .* has the scheme 'shm'; allowed are memory, redis"),
        ("memory:?size=1", "jobs: 'memory:.size=1': size=1: .*"),
        ("memory://host", "jobs: 'memory://host' names a place"),
        ("redis://ada:secret@host", "jobs: 'redis://\\*\\*\\*@host'"),
        ("redis://host?fsync=never", "jobs: .*fsync=never"),
        ("redis+unix:socket", "jobs: .* names no absolute path"),
    ],
)
async def test_a_url_that_is_not_allowed_is_refused_with_what_is(url: str, refused: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{refused}"):
        await open_ledger(url)


async def test_a_server_that_would_lose_jobs_is_refused(
    ledger_servers: Mapping[str, KeyValueServer],
) -> None:
    with pytest.raises(ConfigurationError, match=r"^jobs: .* has appendfsync everysec"):
        await open_ledger(ledger_servers["valkey"].url)


async def test_it_is_said_what_to_install_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_redis(name: str, *args: Any) -> Any:
        if name == "services.jobs.redis_ledger":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.delitem(sys.modules, "services.jobs.redis_ledger", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_redis)
    with pytest.raises(ConfigurationError, match=r"install triptych\[redis\]"):
        await open_ledger("redis://host")
