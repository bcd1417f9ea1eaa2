"""Jobs of one process, in its memory."""

import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NoReturn

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
from services.jobs.memory_job import MemoryJob, Place
from services.jobs.record import JobEvent, JobKey, JobRecord, OutputSlot, Submission
from services.jobs.retention import Retention
from services.jobs.wakeups import Wakeups, heard_within
from triptych.domain.errors import (
    Cancelled,
    ClaimLost,
    EventsExpired,
    JobExpired,
    JobNotFound,
    LedgerFull,
    QuotaExceeded,
    RequestIdReused,
)
from triptych.domain.job import JobState
from triptych.domain.stage_timing import StageTask

_WORK: Final = "work"
_LOOK_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Tombstone:
    client_request_id: str
    fingerprint: str
    expired_time: float


class MemoryLedger:
    """See JobLedger. What is accepted survives its client and its worker, but not this process.

    For one event loop: no method gives way to another before it is done.

    Args:
        retention: how much is kept, and for how long.
        clock: seconds since the epoch.
    """

    def __init__(
        self, retention: Retention | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._retention = retention or Retention()
        self._clock = clock
        self._wakeups = Wakeups()
        self._submissions = 0
        self._size_bytes = 0
        self._open_bytes = 0
        self._open: Counter[str] = Counter()
        # The following three in the order of submission, of ending, of expiry.
        self._jobs: dict[JobKey, MemoryJob] = {}
        self._ended: dict[JobKey, None] = {}
        self._tombstones: dict[JobKey, _Tombstone] = {}
        self._requests: dict[tuple[str, str], JobKey] = {}
        self._queue: list[Place] = []
        # When leases and delays end.
        self._held: dict[JobKey, float] = {}

    async def submit(self, submission: Submission) -> Submitted:
        """See JobLedger."""
        request = (submission.key.tenant, submission.client_request_id)
        known = self._requests.get(request)
        if known is None and (submission.key in self._jobs or submission.key in self._tombstones):
            known = submission.key
        if known is not None:
            return self._meant(known, submission)
        open_jobs, limit = self._open[submission.key.tenant], submission.max_open_jobs
        if limit is not None and open_jobs >= limit:
            raise QuotaExceeded("concurrent_jobs", limit, retry_after_seconds=QUOTA_RETRY_SECONDS)
        self._make_room(sum(self._sizes(submission)))
        self._submissions += 1
        record = JobRecord(
            key=submission.key,
            client_request_id=submission.client_request_id,
            fingerprint=submission.fingerprint,
            parameters=submission.parameters,
            scheduling=submission.scheduling,
            state=JobState.QUEUED,
            create_time=self._clock(),
            size_bytes=0,
        )
        kept = self._jobs[record.key] = MemoryJob(record, self._submissions)
        self._open[record.key.tenant] += 1
        if submission.client_request_id:
            self._requests[request] = record.key
        self._grow(kept, submission.size_bytes)
        self._publish(kept, submission.events)
        self._enqueue(kept)
        return Submitted(kept.record, Meaning.NEW)

    async def open_jobs(self, tenant: str) -> int:
        """See JobLedger."""
        return self._open[tenant]

    async def claim(self, worker: str, lease_seconds: float) -> Claim | None:
        """See JobLedger."""
        now = self._clock()
        for key in [key for key, end in self._held.items() if end <= now]:
            del self._held[key]
            self._enqueue(self._jobs[key])
            self._wakeups.wake(claims_of(key))
        if not self._queue:
            return None
        *_, key = self._queue.pop(0)
        kept = self._jobs[key]
        record = kept.record
        kept.change(
            state=JobState.RUNNING,
            attempt=record.attempt + 1,
            fruitless_claims=record.fruitless_claims + 1,
            worker=worker,
            start_time=now if record.start_time is None else record.start_time,
        )
        self._held[key] = now + lease_seconds
        return Claim(key, kept.record.attempt, worker, kept.record)

    async def renew(self, claim: Claim, lease_seconds: float) -> None:
        """See JobLedger."""
        self._writable(claim)
        self._held[claim.key] = self._clock() + lease_seconds

    async def wait_lost(self, claim: Claim) -> NoReturn:
        """See JobLedger."""
        with self._wakeups.listening(claims_of(claim.key)) as heard:
            while True:
                heard.clear()
                self._writable(claim)
                await heard_within(heard, _LOOK_SECONDS)

    async def append(
        self, claim: Claim, events: Sequence[bytes], *, completed_steps: int | None = None
    ) -> int:
        """See JobLedger."""
        kept = self._written(claim, completed_steps)
        return self._publish(kept, events)

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
        kept = self._written(claim, completed_steps)
        earlier = kept.record.outputs.get(slot, b"")
        outputs = {**kept.record.outputs, slot: output}
        kept.change(outputs=outputs, fruitless_claims=0)
        self._grow(kept, len(output) - len(earlier))
        return self._publish(kept, events)

    async def count_failure(self, claim: Claim, task: StageTask) -> None:
        """See JobLedger."""
        kept = self._writable(claim)
        failures = kept.record.failures
        kept.change(failures={**failures, task: failures.get(task, 0) + 1})

    async def give_back(self, claim: Claim, after_seconds: float = 0.0) -> None:
        """See JobLedger."""
        kept = self._writable(claim)
        kept.change(fruitless_claims=0)
        if after_seconds > 0:
            kept.change(state=JobState.QUEUED, worker="")
            self._held[claim.key] = self._clock() + after_seconds
        else:
            del self._held[claim.key]
            self._enqueue(kept)

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
        kept = self._written(claim, completed_steps)
        last_sequence = self._publish(kept, events)
        self._end(kept, state, outcome)
        return last_sequence

    async def cancel(self, key: JobKey, event: bytes) -> JobRecord:
        """See JobLedger."""
        kept = self._found(key)
        if not kept.record.state.has_ended:
            self._publish(kept, [event])
            self._end(kept, JobState.CANCELLED, b"")
            self._wakeups.wake(claims_of(key))
        return kept.record

    async def get(self, key: JobKey) -> JobRecord:
        """See JobLedger."""
        return self._found(key).record

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
        chosen = (
            kept
            for key, kept in reversed(self._jobs.items())
            if key.tenant == tenant
            and (start is None or kept.number < start)
            and (not states or kept.record.state in states)
        )
        page = list(islice(chosen, size))
        further = next(chosen, None) is not None
        token = str(page[-1].number) if further else ""
        return JobPage(tuple(kept.record for kept in page), token)

    async def watch(self, key: JobKey, after_sequence: int = 0) -> AsyncGenerator[JobEvent, None]:
        """See JobLedger."""
        check_after_sequence(after_sequence, self._found(key).record.last_sequence)
        with self._wakeups.listening(str(key)) as heard:
            while True:
                heard.clear()
                kept = self._found(key)
                if after_sequence + 1 < kept.record.first_sequence:
                    raise EventsExpired(after_sequence, kept.record.first_sequence)
                ended = kept.record.state.has_ended
                skipped = after_sequence + 1 - kept.record.first_sequence
                # Its own copy: the reader may take its time, and the writer does not wait.
                for event in list(islice(kept.events, skipped, None)):
                    yield event
                    after_sequence = event.sequence
                if ended:
                    return
                await heard_within(heard, _LOOK_SECONDS)

    async def wait_for_work(self, seconds: float) -> None:
        """See JobLedger."""
        with self._wakeups.listening(_WORK) as heard:
            if not self._queue:
                await heard_within(heard, seconds)

    async def sweep(self) -> int:
        """See JobLedger."""
        now, retention = self._clock(), self._retention
        gone = self._trim_tombstones(now)
        for key in list(self._ended):
            end_time = self._jobs[key].record.end_time
            assert end_time is not None
            if end_time > now - retention.ended_seconds and self._size_bytes <= retention.max_bytes:
                break
            self._expire(key)
            gone += 1
        return gone

    async def usage(self) -> LedgerUsage:
        """See JobLedger."""
        return LedgerUsage(
            queued=len(self._queue),
            held=len(self._held),
            ended=len(self._ended),
            tombstones=len(self._tombstones),
            size_bytes=self._size_bytes,
        )

    async def close(self) -> None:
        """See JobLedger. Nothing is kept anywhere else."""

    def _meant(self, key: JobKey, submission: Submission) -> Submitted:
        tombstone = self._tombstones.get(key)
        fingerprint = (tombstone or self._jobs[key].record).fingerprint
        if fingerprint != submission.fingerprint:
            raise RequestIdReused(submission.client_request_id, key.job_id)
        record = self._found(key).record
        if key == submission.key:
            return Submitted(record, Meaning.NEW)
        return Submitted(record, Meaning.REPLAYED if record.state.has_ended else Meaning.ATTACHED)

    def _found(self, key: JobKey) -> MemoryJob:
        kept = self._jobs.get(key)
        if kept is None:
            raise (JobExpired if key in self._tombstones else JobNotFound)(key.job_id)
        return kept

    def _writable(self, claim: Claim) -> MemoryJob:
        kept = self._jobs.get(claim.key)
        if kept is not None and kept.record.attempt == claim.token:
            if kept.record.state is JobState.RUNNING:
                return kept
            if kept.record.state is JobState.CANCELLED:
                raise Cancelled(f"the job {claim.key.job_id} was cancelled")
        raise ClaimLost(f"{claim.worker} no longer has the job {claim.key.job_id}")

    def _written(self, claim: Claim, completed_steps: int | None) -> MemoryJob:
        kept = self._writable(claim)
        kept.note_steps(completed_steps)
        return kept

    def _enqueue(self, kept: MemoryJob) -> None:
        kept.change(state=JobState.QUEUED, worker="")
        insort(self._queue, kept.place)
        self._wakeups.wake(_WORK)

    def _grow(self, kept: MemoryJob, size_bytes: int) -> None:
        kept.change(size_bytes=kept.record.size_bytes + size_bytes)
        self._size_bytes += size_bytes
        self._open_bytes += size_bytes

    def _publish(self, kept: MemoryJob, events: Iterable[bytes]) -> int:
        self._grow(kept, kept.publish(events, self._clock(), self._retention.max_event_bytes))
        self._wakeups.wake(str(kept.record.key))
        return kept.record.last_sequence

    def _end(self, kept: MemoryJob, state: JobState, outcome: bytes) -> None:
        key = kept.record.key
        self._held.pop(key, None)
        place = bisect_left(self._queue, kept.place)
        if self._queue[place : place + 1] == [kept.place]:
            del self._queue[place]
        self._grow(kept, len(outcome))
        kept.change(state=state, worker="", outcome=outcome, end_time=self._clock())
        self._open_bytes -= kept.record.size_bytes
        self._open[key.tenant] -= 1
        if not self._open[key.tenant]:
            del self._open[key.tenant]
        self._ended[key] = None
        self._wakeups.wake(str(key))

    def _sizes(self, submission: Submission) -> Iterable[int]:
        yield submission.size_bytes
        yield from (JobEvent(0, 0.0, data).size_bytes for data in submission.events)

    def _make_room(self, size_bytes: int) -> None:
        limit = self._retention.max_bytes
        if self._open_bytes + size_bytes > limit:
            raise LedgerFull(
                f"the jobs that have not ended take {self._open_bytes} bytes of {limit}; this one"
                f" takes {size_bytes}"
            )
        while self._size_bytes + size_bytes > limit:
            self._expire(next(iter(self._ended)))

    def _expire(self, key: JobKey) -> None:
        record = self._jobs.pop(key).record
        del self._ended[key]
        self._size_bytes -= record.size_bytes
        now = self._clock()
        self._tombstones[key] = _Tombstone(record.client_request_id, record.fingerprint, now)
        self._wakeups.wake(str(key))
        self._trim_tombstones(now)

    def _trim_tombstones(self, now: float) -> int:
        gone, oldest = 0, now - self._retention.tombstone_seconds
        for key, tombstone in list(self._tombstones.items()):
            if (
                tombstone.expired_time > oldest
                and len(self._tombstones) <= self._retention.max_tombstones
            ):
                break
            del self._tombstones[key]
            self._requests.pop((key.tenant, tombstone.client_request_id), None)
            gone += 1
        return gone
