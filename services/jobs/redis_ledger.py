"""Jobs in a Redis or Valkey server that keeps them on its disk, for gateways on different hosts."""

import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Any, Final, NoReturn, Self

from services.jobs import redis_scripts
from services.jobs.ledger import (
    QUOTA_RETRY_SECONDS,
    Claim,
    JobPage,
    LedgerUsage,
    Meaning,
    Submitted,
    check_after_sequence,
    checked_page_size,
    claims_of,
    page_start,
)
from services.jobs.ledger_server import SEVERAL, WITHOUT_END, LedgerOptions, LedgerServer
from services.jobs.record import JobEvent, JobKey, JobRecord, OutputSlot, Submission
from services.jobs.redis_answers import found, meant, written
from services.jobs.redis_fields import (
    EXPIRED,
    deadline_digits,
    failures_field,
    fields_of,
    milliseconds,
    optional_milliseconds,
    output_field,
    record_of,
)
from services.jobs.redis_news import RedisNews
from services.jobs.retention import Retention
from services.jobs.wakeups import Wakeups, heard_within
from services.tensor_store.store_url import StoreUrl
from triptych.domain.errors import (
    EventsExpired,
    JobExpired,
    JobNotFound,
    LedgerFull,
    QuotaExceeded,
)
from triptych.domain.job import JobState, Priority
from triptych.domain.stage_timing import StageTask

_WORK: Final = "work"
_CLASSES: Final = (Priority.INTERACTIVE, Priority.STANDARD, Priority.BATCH)
_EVENTS_AT_ONCE: Final = 100
# More than this are not looked at for one page.
_JOBS_AT_ONCE: Final = 1000
# In case a message was lost, as with a connection; whoever waits hears of most at once.
_LOOK_SECONDS: Final = 5.0

_OF_A_CLAIM: Final = (b"running", b"cancelled")

_Argument = str | bytes | int


class RedisLedger:
    """See JobLedger. What is accepted survives every process of ours, and the server's restart.

    What the server's own crash, its host's or its disk's leaves is for its persistence to say; see
    LedgerOptions. A write whose answer was lost is sent again, and is carried out once.

    Args:
        server: that keeps them.
        prefix: what all keys begin with.
        retention: how much is kept, and for how long; to be equal for all who share the ledger.
        clock: seconds since the epoch; None for the server's, which all who share it agree on.
    """

    def __init__(
        self,
        server: LedgerServer,
        prefix: str,
        retention: Retention,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._server = server
        self._client = server.client
        self._prefix = prefix
        self._retention = retention
        self._clock = clock
        self._scripts: dict[str, Any] = {}
        self._wakeups = Wakeups()
        self._news = RedisNews(self._client, f"{prefix}:news", self._wakeups)

    @classmethod
    async def open(
        cls,
        url: str,
        retention: Retention | None = None,
        *,
        clock: Callable[[], float] | None = None,
    ) -> Self:
        """Opens `redis://host:port?...`, `rediss://host:port?...` or `redis+unix:///socket?...`.

        Raises:
            ConfigurationError: the URL is not allowed, or the server cannot keep jobs.
        """
        parsed = StoreUrl.parse(url)
        options = parsed.options(LedgerOptions)
        server = LedgerServer(parsed, options)
        try:
            await server.check()
        except BaseException:
            await server.close()
            raise
        return cls(server, options.key_prefix, retention or Retention(), clock=clock)

    async def submit(self, submission: Submission) -> Submitted:
        """See JobLedger."""
        scheduling = submission.scheduling
        events = [JobEvent(0, 0.0, data).size_bytes for data in submission.events]
        word, *answer = await self._run(
            redis_scripts.SUBMIT,
            self._retention.max_bytes,
            self._retention.max_tombstones,
            submission.size_bytes + sum(events),
            submission.key.tenant,
            submission.key.job_id,
            submission.client_request_id,
            _CLASSES.index(scheduling.priority),
            deadline_digits(scheduling.deadline),
            submission.size_bytes,
            submission.fingerprint,
            submission.parameters,
            scheduling.priority,
            optional_milliseconds(scheduling.max_queue_seconds),
            optional_milliseconds(scheduling.max_run_seconds),
            "" if submission.max_open_jobs is None else submission.max_open_jobs,
            *submission.events,
        )
        if word == b"quota":
            limit = submission.max_open_jobs or 0
            raise QuotaExceeded("concurrent_jobs", limit, retry_after_seconds=QUOTA_RETRY_SECONDS)
        if word == b"full":
            raise LedgerFull(
                f"the jobs that have not ended take {answer[0]} bytes of"
                f" {self._retention.max_bytes};"
                f" this one takes {submission.size_bytes + sum(events)}"
            )
        fields = fields_of(answer[0])
        if word == b"new":
            return Submitted(record_of(fields), Meaning.NEW)
        return meant(fields, submission)

    async def open_jobs(self, tenant: str) -> int:
        """See JobLedger."""
        (number,) = await self._together(("HGET", f"{self._prefix}:open", tenant))
        return int(number or 0)

    async def claim(self, worker: str, lease_seconds: float) -> Claim | None:
        """See JobLedger. A claim whose answer was lost ends with its lease."""
        flat = await self._run(redis_scripts.CLAIM, worker, milliseconds(lease_seconds))
        if not flat:
            return None
        record = record_of(fields_of(flat))
        return Claim(record.key, record.attempt, worker, record)

    async def renew(self, claim: Claim, lease_seconds: float) -> None:
        """See JobLedger."""
        lease = milliseconds(lease_seconds)
        arguments = (str(claim.key), claim.token, lease)
        written(claim, await self._run(redis_scripts.RENEW, *arguments))

    async def wait_lost(self, claim: Claim) -> NoReturn:
        """See JobLedger."""
        with self._wakeups.listening(claims_of(claim.key)) as heard:
            while True:
                heard.clear()
                command = ("HMGET", self._job(str(claim.key)), "attempt", "state")
                ((attempt, state),) = await self._together(command)
                if attempt != str(claim.token).encode() or state not in _OF_A_CLAIM:
                    written(claim, [b"lost"])
                if state == b"cancelled":
                    written(claim, [b"cancelled"])
                await heard_within(heard, _LOOK_SECONDS)

    async def append(
        self, claim: Claim, events: Sequence[bytes], *, completed_steps: int | None = None
    ) -> int:
        """See JobLedger."""
        return await self._write(redis_scripts.APPEND, claim, completed_steps, *events)

    async def advance(
        self,
        claim: Claim,
        slot: OutputSlot,
        output: bytes,
        events: Sequence[bytes] = (),
        *,
        completed_steps: int | None = None,
    ) -> int:
        """See JobLedger."""
        return await self._write(
            redis_scripts.ADVANCE, claim, completed_steps, output_field(slot), output, *events
        )

    async def count_failure(self, claim: Claim, task: StageTask) -> None:
        """See JobLedger."""
        await self._write(redis_scripts.COUNT_FAILURE, claim, None, failures_field(task))

    async def give_back(self, claim: Claim, after_seconds: float = 0.0) -> None:
        """See JobLedger."""
        await self._write(redis_scripts.GIVE_BACK, claim, None, milliseconds(after_seconds))

    async def finish(
        self,
        claim: Claim,
        state: JobState,
        outcome: bytes,
        events: Sequence[bytes],
        *,
        completed_steps: int | None = None,
    ) -> int:
        """See JobLedger."""
        return await self._write(
            redis_scripts.FINISH, claim, completed_steps, state, outcome, *events
        )

    async def cancel(self, key: JobKey, event: bytes) -> JobRecord:
        """See JobLedger."""
        return found(key, fields_of(await self._run(redis_scripts.CANCEL, str(key), event)))

    async def get(self, key: JobKey) -> JobRecord:
        """See JobLedger."""
        (fields,) = await self._together(("HGETALL", self._job(key)))
        return found(key, fields)

    async def list_jobs(
        self,
        tenant: str,
        *,
        states: Collection[JobState] = (),
        page_size: int = 0,
        page_token: str = "",
    ) -> JobPage:
        """See JobLedger."""
        size, start = checked_page_size(page_size), page_start(page_token)
        wanted = {str(state).encode() for state in states or JobState}
        numbered = await self._numbered(tenant, start)
        known = await self._together(*(("HGET", self._job(name), "state") for name, _ in numbered))
        chosen = [job for job, state in zip(numbered, known, strict=True) if state in wanted]
        page = chosen[:size]
        hashes = await self._together(*(("HGETALL", self._job(name)) for name, _ in page))
        # One may have expired since.
        records = tuple(record_of(h) for h in hashes if h.get(b"state", EXPIRED) != EXPIRED)
        if len(chosen) > size:
            return JobPage(records, str(page[-1][1]))
        return JobPage(records, str(numbered[-1][1]) if len(numbered) == _JOBS_AT_ONCE else "")

    async def watch(self, key: JobKey, after_sequence: int = 0) -> AsyncGenerator[JobEvent, None]:
        """See JobLedger."""
        check_after_sequence(after_sequence, (await self.get(key)).last_sequence)
        with self._wakeups.listening(str(key)) as heard:
            while True:
                heard.clear()
                state, last, events = await self._events(key, after_sequence)
                for event in events:
                    yield event
                    after_sequence = event.sequence
                if after_sequence < last:
                    continue
                if state.has_ended:
                    return
                await heard_within(heard, _LOOK_SECONDS)

    async def wait_for_work(self, seconds: float) -> None:
        """See JobLedger."""
        with self._wakeups.listening(_WORK) as heard:
            (queued,) = await self._together(("ZCARD", f"{self._prefix}:queue"))
            if not queued:
                await heard_within(heard, seconds)

    async def sweep(self) -> int:
        """See JobLedger."""
        retention, gone = self._retention, 0
        bounds = (
            milliseconds(retention.ended_seconds),
            milliseconds(retention.tombstone_seconds),
            retention.max_bytes,
            retention.max_tombstones,
        )
        # In parts: the server does nothing else meanwhile.
        while part := int(await self._run(redis_scripts.SWEEP, *bounds)):
            gone += part
        return gone

    async def usage(self) -> LedgerUsage:
        """See JobLedger."""
        kinds = ("queue", "held", "ended", "tombstones")
        *counts, size_bytes = await self._together(
            *(("ZCARD", f"{self._prefix}:{kind}") for kind in kinds),
            ("HGET", f"{self._prefix}:totals", "bytes"),
        )
        queued, held, ended, tombstones = counts
        return LedgerUsage(queued, held, ended, tombstones, int(size_bytes or 0))

    async def close(self) -> None:
        """See JobLedger."""
        await self._news.close()
        await self._server.close()

    async def _run(self, script: str, *arguments: _Argument, tries: int = SEVERAL) -> Any:  # noqa: ANN401 - Redis' answer
        registered = self._scripts.get(script)
        if registered is None:
            registered = self._scripts[script] = self._client.register_script(script)
        now = -1 if self._clock is None else milliseconds(self._clock())
        common = (now, self._retention.max_event_bytes)
        return await self._server.call(
            lambda: registered(keys=[f"{self._prefix}:"], args=[*common, *arguments]), tries
        )

    async def _together(self, *commands: tuple[_Argument, ...]) -> list[Any]:
        """Answers to commands that read."""

        async def together() -> list[Any]:
            # No transaction: a server that is full would not take the commands of one.
            async with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return await pipeline.execute()

        return await self._server.call(together) if commands else []

    async def _write(
        self, script: str, claim: Claim, completed_steps: int | None, *arguments: _Argument
    ) -> int:
        """Returns the last event's sequence number.

        A write that was not answered is sent again until it is: nobody else can repeat it, who does
        not know the word that makes two of them one.
        """
        write = secrets.token_hex(8)
        steps = "" if completed_steps is None else completed_steps
        told = (str(claim.key), claim.token, write, steps, *arguments)
        return written(claim, await self._run(script, *told, tries=WITHOUT_END))

    async def _numbered(self, tenant: str, start: int | None) -> list[tuple[str, int]]:
        (pairs,) = await self._together(
            (
                *("ZRANGE", f"{self._prefix}:tenant:{tenant}"),
                *("+inf" if start is None else f"({start}", "-inf"),
                *("BYSCORE", "REV", "LIMIT", 0, _JOBS_AT_ONCE, "WITHSCORES"),
            )
        )
        return [(name.decode(), int(number)) for name, number in pairs]

    async def _events(
        self, key: JobKey, after_sequence: int
    ) -> tuple[JobState, int, list[JobEvent]]:
        """State and last sequence number of a moment, and some of the events up to it at least.

        Raises:
            JobNotFound, JobExpired, EventsExpired: they are not there.
        """
        (state, first, last), entries = await self._together(
            ("HMGET", self._job(key), "state", "first", "last"),
            (
                *("XRANGE", f"{self._prefix}:events:{key}", f"{after_sequence + 1}-0", "+"),
                *("COUNT", _EVENTS_AT_ONCE),
            ),
        )
        if state is None:
            raise JobNotFound(key.job_id)
        if state == EXPIRED:
            raise JobExpired(key.job_id)
        events = [
            JobEvent(int(number.split(b"-")[0]), int(entry[b"time"]) / 1000, entry[b"data"])
            for number, entry in entries
        ]
        # The events were read later than where they begin: some may have gone in between.
        begin = events[0].sequence if events else int(first)
        if after_sequence + 1 < begin:
            raise EventsExpired(after_sequence, begin)
        return JobState(state.decode()), int(last), events

    def _job(self, name: JobKey | str) -> str:
        return f"{self._prefix}:job:{name}"
