"""Ledgers to test, each with a clock that a test sets and doors for several processes."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.jobs.ledger import Claim, JobLedger
from services.jobs.memory_ledger import MemoryLedger
from services.jobs.record import JobEvent, JobKey, Submission
from services.jobs.redis_ledger import RedisLedger
from services.jobs.retention import Retention
from tests.valkey_server import BINARIES, KeyValueServer
from triptych.domain.job import JobState, Scheduling

KEPT = ("--appendonly", "yes", "--appendfsync", "everysec")
MEMORY = "memory"
BACKENDS = (MEMORY, *BINARIES)
LEASE_SECONDS = 10.0


@dataclass
class Clock:
    """Seconds, whole ones."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """A ledger by several doors; of a ledger in memory all are the same one."""

    clock: Clock
    doors: Sequence[JobLedger]

    @property
    def ledger(self) -> JobLedger:
        return self.doors[0]


@asynccontextmanager
async def bench_of(
    servers: Mapping[str, KeyValueServer],
    backend: str,
    retention: Retention | None = None,
    doors: int = 2,
) -> AsyncIterator[Bench]:
    clock = Clock()
    async with AsyncExitStack() as exits:
        made: list[JobLedger] = []
        if backend == MEMORY:
            made = [MemoryLedger(retention, clock=clock)] * doors
        else:
            url = f"{servers[backend].url}?fsync=everysec&key_prefix={secrets.token_hex(4)}"
            for _ in range(doors):
                made.append(await RedisLedger.open(url, retention, clock=clock))
                exits.push_async_callback(made[-1].close)
        yield Bench(clock, made)


def submission(
    *events: bytes,
    tenant: str = "ada",
    request_id: str = "",
    fingerprint: str = "same",
    parameters: bytes = b"parameters",
    scheduling: Scheduling | None = None,
    max_open_jobs: int | None = None,
) -> Submission:
    key = JobKey(tenant, secrets.token_hex(16))
    chosen = scheduling or Scheduling()
    return Submission(key, request_id, fingerprint, parameters, chosen, events, max_open_jobs)


async def all_events(ledger: JobLedger, key: JobKey, after: int = 0) -> list[JobEvent]:
    """Of a job that has ended."""
    return [event async for event in ledger.watch(key, after)]


async def claimed(ledger: JobLedger, worker: str = "worker") -> Claim:
    claim = await ledger.claim(worker, LEASE_SECONDS)
    assert claim is not None
    return claim


async def ended(ledger: JobLedger, given: Submission) -> JobKey:
    await ledger.submit(given)
    claim = await claimed(ledger)
    await ledger.finish(claim, JobState.SUCCEEDED, b"result", [b"end"])
    return claim.key
