import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.jobs import redis_scripts
from services.jobs.ledger import Claim
from services.jobs.record import OutputSlot
from services.jobs.redis_ledger import RedisLedger
from services.jobs.retention import Retention
from tests.unit.jobs.benches import KEPT, LEASE_SECONDS, Clock, all_events, submission
from tests.valkey_server import BINARIES, KeyValueServer, key_value_server
from triptych.domain.errors import ClaimLost, ConfigurationError, LedgerFull, LedgerUnavailable
from triptych.domain.job import JobState, Priority, Scheduling
from triptych.domain.stage_timing import StageTask

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
RELAXED = "?fsync=everysec"


@pytest.fixture(params=BINARIES.values(), ids=BINARIES)
def server(request: pytest.FixtureRequest) -> Iterator[KeyValueServer]:
    with key_value_server(*ALWAYS, binary=request.param) as server:
        yield server


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[RedisLedger]:
    ledger = await RedisLedger.open(url, **options)  # type: ignore[arg-type]
    try:
        yield ledger
    finally:
        await ledger.close()


async def claimed(ledger: RedisLedger) -> Claim:
    claim = await ledger.claim("worker", LEASE_SECONDS)
    assert claim is not None
    return claim


async def test_all_that_was_accepted_outlives_a_server_that_is_killed(
    server: KeyValueServer,
) -> None:
    urgent = Scheduling(Priority.INTERACTIVE, 2_000_000_000.0)
    async with opened(server.url) as ledger:
        await ledger.submit(submission(b"accepted", request_id="mine", scheduling=urgent))
        await ledger.submit(waiting := submission(b"accepted"))
        claim = await claimed(ledger)
        await ledger.advance(claim, OutputSlot(StageTask.DENOISE), b"\x00latents\xff", [b"step"])
        await ledger.count_failure(claim, StageTask.DECODE)
        await ledger.submit(gone := submission(b"accepted"))
        await ledger.cancel(gone.key, b"cancelled")
        keys = (claim.key, waiting.key, gone.key)
        before = [await ledger.get(key) for key in keys]
        usage = await ledger.usage()
        events = await all_events(ledger, gone.key)
    server.kill()
    server.start()
    async with opened(server.url) as ledger:
        assert [await ledger.get(key) for key in keys] == before
        assert await ledger.usage() == usage
        assert await all_events(ledger, gone.key) == events
        # The claim still holds, and what comes after it as well.
        assert await ledger.append(claim, [b"step"]) == 3
        await ledger.finish(claim, JobState.SUCCEEDED, b"result", [])
        assert (await claimed(ledger)).key == waiting.key


async def test_a_worker_writes_each_event_once_though_the_server_is_killed_under_it(
    server: KeyValueServer,
) -> None:
    async with opened(server.url) as ledger, opened(server.url) as reader:
        await ledger.submit(submission())
        claim = await claimed(ledger)
        written = asyncio.Event()
        watching = asyncio.create_task(all_events(reader, claim.key))

        async def write() -> None:
            for number in range(1, 301):
                assert await ledger.append(claim, [str(number).encode()]) == number
                if number % 60 == 0:
                    written.set()

        writing = asyncio.create_task(write())
        for _ in range(3):
            await written.wait()
            written.clear()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await writing
        await ledger.finish(claim, JobState.SUCCEEDED, b"", [])
        events = await watching
        assert [event.sequence for event in events] == list(range(1, 301))
        assert [event.data for event in events] == [b"%d" % event.sequence for event in events]


async def test_a_write_that_is_sent_again_is_carried_out_once(server: KeyValueServer) -> None:
    async with opened(server.url) as ledger:
        await ledger.submit(submission())
        claim = await claimed(ledger)
        of_claim = (str(claim.key), claim.token, "word")
        for _ in range(2):
            told = await ledger._run(redis_scripts.APPEND, *of_claim, "", b"step")
            assert told == [b"written", 1]
            # Renewals overlap with writes.
            await ledger.renew(claim, LEASE_SECONDS)
        for _ in range(2):
            ending = (*of_claim[:2], "end", "", "succeeded", b"result", b"end")
            assert await ledger._run(redis_scripts.FINISH, *ending) == [b"written", 2]
        assert len(await all_events(ledger, claim.key)) == 2
        assert (await ledger.usage()).ended == 1


async def test_a_server_that_is_gone_is_said_to_be_and_is_found_again(
    server: KeyValueServer,
) -> None:
    async with opened(server.url) as ledger:
        await ledger.submit(given := submission())
        server.kill()
        with pytest.raises(LedgerUnavailable, match=f"the server at redis.unix://{server.socket}"):
            await ledger.get(given.key)
        server.start()
        assert (await ledger.get(given.key)).state is JobState.QUEUED


async def test_a_write_waits_for_a_server_that_is_gone_until_it_is_carried_out(
    server: KeyValueServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.jobs.ledger_server._LONGEST_PAUSE_SECONDS", 0.05)
    async with opened(server.url) as ledger:
        await ledger.submit(submission())
        claim = await claimed(ledger)
        server.kill()
        writing = asyncio.create_task(ledger.append(claim, [b"step"]))
        # Longer than what only reads goes on trying.
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                await ledger.usage()
        assert not writing.done()
        server.start()
        assert await writing == 1


async def test_a_server_that_is_full_takes_no_job_and_lets_those_that_run_end(
    server: KeyValueServer,
) -> None:
    async with opened(server.url) as ledger:
        await ledger.submit(submission(b"accepted"))
        claim = await claimed(ledger)
        server.client().config_set("maxmemory", 1)
        with pytest.raises(LedgerFull, match="has reached its maxmemory"):
            await ledger.submit(submission())
        await ledger.renew(claim, LEASE_SECONDS)
        await ledger.advance(claim, OutputSlot(StageTask.DENOISE), b"latents", [b"step"])
        await ledger.finish(claim, JobState.SUCCEEDED, b"result", [b"end"])
        assert (await ledger.usage()).ended == 1


async def test_nothing_is_left_of_jobs_that_were_forgotten(server: KeyValueServer) -> None:
    clock = Clock()
    async with opened(server.url, clock=clock) as ledger:
        for number in range(250):
            await ledger.submit(submission(b"accepted", request_id=str(number)))
            claim = await claimed(ledger)
            await ledger.finish(claim, JobState.SUCCEEDED, b"result", [b"end"])
        clock.now += Retention().ended_seconds
        assert await ledger.sweep() == 250
        clock.now += Retention().tombstone_seconds
        assert await ledger.sweep() == 250
        totals = {b"submissions": b"250", b"bytes": b"0", b"ended_bytes": b"0"}
        assert server.client().keys("*") == [b"triptych-jobs:totals"]
        assert server.client().hgetall("triptych-jobs:totals") == totals


@pytest.mark.parametrize("events", [1, 20, 100])
async def test_jobs_take_no_more_than_they_are_counted_for(
    server: KeyValueServer, events: int
) -> None:
    async with opened(server.url) as ledger:
        before = server.client().info("memory")["used_memory_dataset"]
        for number in range(200):
            told = [b"x" * 100] * events
            await ledger.submit(submission(*told, request_id=f"r{number}", parameters=b"x" * 1000))
        taken = server.client().info("memory")["used_memory_dataset"] - before
        counted = (await ledger.usage()).size_bytes
        assert counted / 3 < taken < counted


async def test_times_are_the_servers_where_no_clock_is_given(server: KeyValueServer) -> None:
    async with opened(server.url) as ledger:
        seconds, microseconds = server.client().time()
        record = (await ledger.submit(submission())).record
        assert 0 <= record.create_time - (seconds + microseconds / 1e6) + 0.001 < 60


async def test_a_lease_ends_by_the_servers_clock(server: KeyValueServer) -> None:
    async with opened(server.url) as ledger, opened(server.url) as other:
        await ledger.submit(submission())
        old = await ledger.claim("old", 0.05)
        assert old is not None
        while (new := await other.claim("new", LEASE_SECONDS)) is None:
            await other.wait_for_work(0.01)
        assert (new.key, new.token) == (old.key, 2)
        with pytest.raises(ClaimLost):
            await ledger.append(old, [b"late"])


async def test_nothing_runs_on_once_a_ledger_is_closed(server: KeyValueServer) -> None:
    others = asyncio.all_tasks()
    for _ in range(5):
        async with opened(server.url) as ledger:
            await ledger.usage()
        assert asyncio.all_tasks() == others


async def test_a_page_that_is_looked_for_among_many_jobs_says_where_to_go_on(
    server: KeyValueServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.jobs.redis_ledger._JOBS_AT_ONCE", 4)
    async with opened(server.url) as ledger:
        given = [submission() for _ in range(10)]
        for each in given:
            await ledger.submit(each)
        await ledger.cancel(given[1].key, b"cancelled")
        found, token, pages = [], "", 0
        while token or not pages:
            page = await ledger.list_jobs("ada", states=[JobState.CANCELLED], page_token=token)
            found += [record.key for record in page.records]
            token, pages = page.next_page_token, pages + 1
        assert (found, pages) == ([given[1].key], 3)


@pytest.mark.parametrize(
    ("options", "query", "refused"),
    [
        ((), "", "its appendonly is no; set appendonly yes and appendfsync always"),
        ((), "?fsync=unchecked", "its appendonly is no"),
        (KEPT, "", "has appendfsync everysec .* accept the loss .* by fsync=everysec in the URL"),
        (
            (*KEPT[:2], "--appendfsync", "no"),
            RELAXED,
            "has appendfsync no and may lose .* set it to everysec",
        ),
        (
            (*ALWAYS, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"),
            "",
            "maxmemory-policy allkeys-lru and would evict jobs; set it to noeviction",
        ),
        ((*ALWAYS, "--replicaof", "127.0.0.1 1"), "", "is a replica; name its primary"),
        ((*ALWAYS, "--cluster-enabled", "yes"), "", "is part of a Redis Cluster"),
    ],
)
async def test_a_server_that_would_lose_jobs_is_refused_with_what_to_set(
    options: tuple[str, ...], query: str, refused: str
) -> None:
    with key_value_server(*options) as server, pytest.raises(ConfigurationError, match=refused):
        await RedisLedger.open(f"{server.url}{query}")


@pytest.mark.parametrize("query", ["", "?fsync=always", RELAXED, "?fsync=unchecked"])
async def test_a_server_that_is_safer_than_asked_is_taken(
    server: KeyValueServer, query: str
) -> None:
    async with opened(f"{server.url}{query}") as ledger:
        assert (await ledger.usage()).size_bytes == 0


async def test_a_user_who_may_not_see_settings_says_that_they_are_known(
    server: KeyValueServer, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    rights = "~triptych-jobs:* &triptych-jobs:* +@all -config"
    server.client().execute_command(f"ACL SETUSER jobs on >secret {rights}")
    url = f"{server.url}?username=jobs&password_file={password}"
    with pytest.raises(ConfigurationError, match=r"does not tell its appendfsync .* CONFIG GET"):
        await RedisLedger.open(url)
    async with opened(f"{url}&fsync=unchecked") as ledger:
        await ledger.submit(submission(b"accepted"))
        await claimed(ledger)
    password.write_text("wrong")
    with pytest.raises(ConfigurationError, match="refuses the user jobs"):
        await RedisLedger.open(url)


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("redis+unix:///nowhere/at.all?connect_attempts=1", "cannot be used"),
        ("redis+unix://host/socket", "names no absolute path"),
        ("http://host", "allowed is redis://host:port"),
        ("redis://", "allowed is redis://host:port"),
        ("redis://user:secret@host", r"redis://\*\*\*@host"),
        ("redis://host:many", "host:many"),
        ("redis://host/1", "allowed is redis://host:port"),
        ("redis://host?fsync=sometimes", "fsync=sometimes"),
        ("redis://host?speed=1", "speed=1"),
        ("redis://host?ca_file=/x", "which only rediss:// has"),
        ("rediss://host?ca_file=/nowhere", "there is no file /nowhere"),
        ("redis://host?password_file=/nowhere", "cannot read password_file /nowhere"),
    ],
)
async def test_a_url_that_is_not_allowed_is_refused(url: str, refused: str) -> None:
    with pytest.raises(ConfigurationError, match=refused):
        await RedisLedger.open(url)


@pytest.mark.parametrize("name", Retention.__slots__)
def test_a_bound_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: is 0; allowed are numbers above 0"):
        Retention(**{name: 0})
