"""Ledgers against a model of one, with workers that come back after they have lost their claims."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.jobs.ledger import Claim, Meaning
from services.jobs.record import JobKey, OutputSlot, Submission
from services.jobs.retention import Retention
from tests.unit.jobs.benches import (
    BACKENDS,
    LEASE_SECONDS,
    MEMORY,
    all_events,
    bench_of,
    submission,
)
from tests.valkey_server import KeyValueServer
from triptych.domain.errors import (
    Cancelled,
    ClaimLost,
    JobExpired,
    JobNotFound,
    RequestIdReused,
    TriptychError,
)
from triptych.domain.job import JobState, Priority, Scheduling
from triptych.domain.stage_timing import StageTask

T = TypeVar("T")

DOORS = st.integers(0, 1)
WHICH = st.integers(0, 1_000_000)
DATA = st.binary(max_size=4)
EVENTS = st.lists(DATA, max_size=3)
KEEP = Retention(ended_seconds=40, tombstone_seconds=60)
URGENCY = (Priority.INTERACTIVE, Priority.STANDARD, Priority.BATCH)


@dataclass
class ModelJob:
    given: Submission
    number: int
    events: list[bytes]
    state: JobState = JobState.QUEUED
    attempt: int = 0
    fruitless: int = 0
    steps: int = 0
    worker: str = ""
    outcome: bytes = b""
    outputs: dict[OutputSlot, bytes] = field(default_factory=dict)
    failures: dict[StageTask, int] = field(default_factory=dict)
    held_until: float | None = None
    ended_time: float = 0.0
    expired_time: float | None = None

    @property
    def place(self) -> tuple[int, float, int]:
        scheduling = self.given.scheduling
        deadline = float("inf") if scheduling.deadline is None else scheduling.deadline
        return URGENCY.index(scheduling.priority), deadline, self.number

    @property
    def is_kept(self) -> bool:
        return self.expired_time is None


class LedgerMachine(RuleBasedStateMachine):
    servers: Mapping[str, KeyValueServer]
    backend: str

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.exits = AsyncExitStack()
        bench = self.run(self.exits.enter_async_context(bench_of(self.servers, self.backend, KEEP)))
        self.doors, self.clock = bench.doors, bench.clock
        self.jobs: dict[JobKey, ModelJob] = {}
        self.claims: list[Claim] = []
        self.submissions = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def raises(self, kind: type[TriptychError], work: Coroutine[Any, Any, object]) -> None:
        with pytest.raises(kind):
            self.run(work)

    def has_jobs(self) -> bool:
        return bool(self.jobs)

    def has_claims(self) -> bool:
        return bool(self.claims)

    @rule(
        door=DOORS,
        tenant=st.sampled_from(["ada", "bob"]),
        request_id=st.sampled_from(["", "", "mine", "other"]),
        fingerprint=st.sampled_from(["same", "same", "other"]),
        priority=st.sampled_from(URGENCY),
        deadline=st.sampled_from([None, 5, 50]),
        events=EVENTS,
    )
    def submit(
        self,
        door: int,
        tenant: str,
        request_id: str,
        fingerprint: str,
        priority: Priority,
        deadline: int | None,
        events: list[bytes],
    ) -> None:
        due = None if deadline is None else self.clock.now + deadline
        given = submission(
            *events,
            tenant=tenant,
            request_id=request_id,
            fingerprint=fingerprint,
            scheduling=Scheduling(priority, due),
        )
        meant = [
            job
            for job in self.jobs.values()
            if request_id
            and job.given.key.tenant == tenant
            and job.given.client_request_id == request_id
        ]
        submitting = self.doors[door].submit(given)
        if not meant:
            assert self.run(submitting).meaning is Meaning.NEW
            self.submissions += 1
            self.jobs[given.key] = ModelJob(given, self.submissions, list(events))
        elif meant[0].given.fingerprint != fingerprint:
            self.raises(RequestIdReused, submitting)
        elif not meant[0].is_kept:
            self.raises(JobExpired, submitting)
        else:
            submitted = self.run(submitting)
            assert submitted.record.key == meant[0].given.key
            replayed = meant[0].state.has_ended
            assert submitted.meaning is (Meaning.REPLAYED if replayed else Meaning.ATTACHED)

    @rule(door=DOORS, worker=st.sampled_from(["one", "two"]))
    def claim(self, door: int, worker: str) -> None:
        for job in self.jobs.values():
            if job.held_until is not None and job.held_until <= self.clock.now:
                job.state, job.held_until, job.worker = JobState.QUEUED, None, ""
        waiting = [
            job
            for job in self.jobs.values()
            if job.state is JobState.QUEUED and job.held_until is None
        ]
        claim = self.run(self.doors[door].claim(worker, LEASE_SECONDS))
        if not waiting:
            assert claim is None
            return
        job = min(waiting, key=lambda waiting: waiting.place)
        assert claim is not None
        assert claim.key == job.given.key
        job.state, job.worker, job.attempt = JobState.RUNNING, worker, job.attempt + 1
        job.fruitless += 1
        job.held_until = self.clock.now + LEASE_SECONDS
        assert claim.token == job.attempt
        self.claims.append(claim)

    def written(self, write: Coroutine[Any, Any, object], claim: Claim) -> ModelJob | None:
        """The job, if the write is one that its claim still allows."""
        job = self.jobs.get(claim.key)
        if job is None or not job.is_kept or job.attempt != claim.token:
            self.raises(ClaimLost, write)
        elif job.state is JobState.CANCELLED:
            self.raises(Cancelled, write)
        elif job.state is not JobState.RUNNING:
            self.raises(ClaimLost, write)
        else:
            self.run(write)
            return job
        return None

    def chosen(self, which: int) -> Claim:
        return self.claims[which % len(self.claims)]

    @precondition(has_claims)
    @rule(door=DOORS, which=WHICH)
    def renew(self, door: int, which: int) -> None:
        claim = self.chosen(which)
        job = self.written(self.doors[door].renew(claim, LEASE_SECONDS), claim)
        if job is not None:
            job.held_until = self.clock.now + LEASE_SECONDS

    @precondition(has_claims)
    @rule(door=DOORS, which=WHICH, events=EVENTS, steps=st.sampled_from([None, 1, 2]))
    def append(self, door: int, which: int, events: list[bytes], steps: int | None) -> None:
        claim = self.chosen(which)
        write = self.doors[door].append(claim, events, completed_steps=steps)
        job = self.written(write, claim)
        if job is not None:
            job.events += events
            if steps is not None:
                job.fruitless = 0 if steps > job.steps else job.fruitless
                job.steps = steps

    @precondition(has_claims)
    @rule(door=DOORS, which=WHICH, index=st.integers(0, 1), output=DATA, events=EVENTS)
    def advance(
        self, door: int, which: int, index: int, output: bytes, events: list[bytes]
    ) -> None:
        claim, slot = self.chosen(which), OutputSlot(StageTask.DENOISE, index)
        write = self.doors[door].advance(claim, slot, output, events)
        job = self.written(write, claim)
        if job is not None:
            job.outputs[slot] = output
            job.fruitless = 0
            job.events += events

    @precondition(has_claims)
    @rule(door=DOORS, which=WHICH, task=st.sampled_from(list(StageTask)))
    def count_failure(self, door: int, which: int, task: StageTask) -> None:
        claim = self.chosen(which)
        job = self.written(self.doors[door].count_failure(claim, task), claim)
        if job is not None:
            job.failures[task] = job.failures.get(task, 0) + 1

    @precondition(has_claims)
    @rule(door=DOORS, which=WHICH, delay=st.sampled_from([0.0, 5.0]))
    def give_back(self, door: int, which: int, delay: float) -> None:
        claim = self.chosen(which)
        job = self.written(self.doors[door].give_back(claim, delay), claim)
        if job is not None:
            job.state, job.worker, job.fruitless = JobState.QUEUED, "", 0
            job.held_until = self.clock.now + delay if delay else None

    @precondition(has_claims)
    @rule(
        door=DOORS,
        which=WHICH,
        state=st.sampled_from([JobState.SUCCEEDED, JobState.FAILED]),
        outcome=DATA,
        events=EVENTS,
    )
    def finish(
        self, door: int, which: int, state: JobState, outcome: bytes, events: list[bytes]
    ) -> None:
        claim = self.chosen(which)
        write = self.doors[door].finish(claim, state, outcome, events)
        job = self.written(write, claim)
        if job is not None:
            job.events += events
            job.outcome = outcome
            self.end(job, state)

    @precondition(has_jobs)
    @rule(door=DOORS, which=WHICH)
    def cancel(self, door: int, which: int) -> None:
        job = list(self.jobs.values())[which % len(self.jobs)]
        cancelling = self.doors[door].cancel(job.given.key, b"cancelled")
        if not job.is_kept:
            self.raises(JobExpired, cancelling)
            return
        self.run(cancelling)
        if not job.state.has_ended:
            job.events.append(b"cancelled")
            self.end(job, JobState.CANCELLED)

    def end(self, job: ModelJob, state: JobState) -> None:
        job.state, job.worker, job.held_until = state, "", None
        job.ended_time = self.clock.now

    @rule(seconds=st.sampled_from([1.0, LEASE_SECONDS, 45.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(door=DOORS)
    def sweep(self, door: int) -> None:
        gone, now = [], self.clock.now
        for key, job in list(self.jobs.items()):
            if job.expired_time is None:
                if job.state.has_ended and job.ended_time <= now - KEEP.ended_seconds:
                    job.expired_time = now
                    gone.append(key)
            elif job.expired_time <= now - KEEP.tombstone_seconds:
                del self.jobs[key]
                gone.append(key)
        assert self.run(self.doors[door].sweep()) == len(gone)
        for key in gone:
            self.raises(JobExpired if key in self.jobs else JobNotFound, self.doors[0].get(key))

    @invariant()
    def every_job_is_as_it_should_be(self) -> None:
        for key, job in self.jobs.items():
            if not job.is_kept:
                self.raises(JobExpired, self.doors[0].get(key))
                continue
            record = self.run(self.doors[0].get(key))
            assert (record.state, record.attempt, record.worker) == (
                job.state,
                job.attempt,
                job.worker,
            )
            assert (record.outputs, record.failures) == (job.outputs, job.failures)
            assert (record.completed_steps, record.fruitless_claims) == (job.steps, job.fruitless)
            assert (record.outcome, record.last_sequence) == (job.outcome, len(job.events))
            if job.state.has_ended:
                events = self.run(all_events(self.doors[1], key))
                assert [event.data for event in events] == job.events

    @invariant()
    def tenants_have_their_own_jobs(self) -> None:
        for tenant in ("ada", "bob"):
            page = self.run(self.doors[0].list_jobs(tenant))
            kept = [k for k, job in self.jobs.items() if job.is_kept and k.tenant == tenant]
            assert [record.key for record in page.records] == kept[::-1]
            open_jobs = [key for key in kept if not self.jobs[key].state.has_ended]
            assert self.run(self.doors[1].open_jobs(tenant)) == len(open_jobs)

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        usage = self.run(self.doors[1].usage())
        kept = [job for job in self.jobs.values() if job.is_kept]
        ended = sum(job.state.has_ended for job in kept)
        assert usage.ended == ended
        assert usage.queued + usage.held == len(kept) - ended
        assert usage.held == sum(job.held_until is not None for job in kept)
        assert usage.tombstones == len(self.jobs) - len(kept)
        sizes = [self.run(self.doors[0].get(job.given.key)).size_bytes for job in kept]
        assert usage.size_bytes == sum(sizes)

    def teardown(self) -> None:
        self.run(self.exits.aclose())
        self.runner.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ledger_behaves_like_its_model(
    ledger_servers: Mapping[str, KeyValueServer], backend: str
) -> None:
    # Servers take longer, and are asked the same.
    examples = 25 if backend == MEMORY else 12
    chosen = {"servers": ledger_servers, "backend": backend}
    run_state_machine_as_test(
        type("Machine", (LedgerMachine,), chosen),
        settings=settings(max_examples=examples, stateful_step_count=30, deadline=None),
    )
