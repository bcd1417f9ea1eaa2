"""What every ledger does."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.jobs.ledger import Claim, JobLedger, Meaning
from services.jobs.record import (
    EVENT_OVERHEAD_BYTES,
    JOB_OVERHEAD_BYTES,
    JobKey,
    OutputSlot,
)
from tests.unit.jobs.benches import (
    LEASE_SECONDS,
    Bench,
    all_events,
    claimed,
    ended,
    submission,
)
from triptych.domain.errors import (
    Cancelled,
    ClaimLost,
    InvalidRequest,
    JobNotFound,
    QuotaExceeded,
    RequestIdReused,
)
from triptych.domain.job import JobState, Priority, Scheduling
from triptych.domain.stage_timing import StageTask

LATENTS = OutputSlot(StageTask.DENOISE, 1)
NOBODY = JobKey("ada", "0" * 32)

WRITES: dict[str, Callable[[JobLedger, Claim], Awaitable[object]]] = {
    "renew": lambda ledger, claim: ledger.renew(claim, LEASE_SECONDS),
    "append": lambda ledger, claim: ledger.append(claim, [b"late"]),
    "advance": lambda ledger, claim: ledger.advance(claim, LATENTS, b"late"),
    "count_failure": lambda ledger, claim: ledger.count_failure(claim, StageTask.DECODE),
    "give_back": lambda ledger, claim: ledger.give_back(claim),
    "finish": lambda ledger, claim: ledger.finish(claim, JobState.FAILED, b"late", [b"late"]),
}


async def test_a_job_is_kept_as_it_was_submitted(bench: Bench) -> None:
    scheduling = Scheduling(Priority.BATCH, bench.clock.now + 60.125, 0.0, 7.25)
    given = submission(b"accepted", b"queued", request_id="mine", scheduling=scheduling)
    submitted = await bench.ledger.submit(given)
    assert submitted.meaning is Meaning.NEW
    record = submitted.record
    assert (record.key, record.client_request_id) == (given.key, "mine")
    assert (record.fingerprint, record.parameters) == ("same", b"parameters")
    assert record.scheduling == scheduling
    assert (record.state, record.attempt, record.last_sequence) == (JobState.QUEUED, 0, 2)
    assert (record.create_time, record.start_time, record.end_time) == (bench.clock.now, None, None)
    assert await bench.doors[1].get(given.key) == record


async def test_a_job_keeps_what_its_worker_writes_until_it_has_ended(bench: Bench) -> None:
    ledger, given = bench.ledger, submission(b"accepted")
    await ledger.submit(given)
    bench.clock.now += 1
    claim = await claimed(ledger)
    assert claim.record.state is JobState.RUNNING
    assert (claim.token, claim.record.worker) == (1, "worker")
    assert await ledger.append(claim, [b"step 1", b"step 2"], completed_steps=2) == 3
    await ledger.count_failure(claim, StageTask.DECODE)
    await ledger.count_failure(claim, StageTask.DECODE)
    assert await ledger.advance(claim, LATENTS, b"checkpoint") == 3
    assert await ledger.advance(claim, LATENTS, b"latents", [b"denoised"]) == 4
    bench.clock.now += 1
    assert await ledger.finish(claim, JobState.SUCCEEDED, b"result", [b"end"]) == 5
    record = await ledger.get(given.key)
    assert (record.state, record.outcome, record.worker) == (JobState.SUCCEEDED, b"result", "")
    assert record.outputs == {LATENTS: b"latents"}
    assert record.failures == {StageTask.DECODE: 2}
    assert (record.completed_steps, record.attempt) == (2, 1)
    times = (record.create_time, record.start_time, record.end_time)
    assert times == (bench.clock.now - 2, bench.clock.now - 1, bench.clock.now)
    events = await all_events(ledger, given.key)
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    assert b" ".join(event.data for event in events) == b"accepted step 1 step 2 denoised end"
    written = sum(len(event.data) + EVENT_OVERHEAD_BYTES for event in events)
    kept = len(b"parameters" + b"latents" + b"result")
    assert record.size_bytes == JOB_OVERHEAD_BYTES + kept + written
    assert (await ledger.usage()).size_bytes == record.size_bytes


async def test_the_same_submission_from_ten_clients_at_once_is_one_job(bench: Bench) -> None:
    given = [submission(b"accepted", request_id="mine") for _ in range(10)]
    answers = await asyncio.gather(
        *(bench.doors[number % 2].submit(each) for number, each in enumerate(given))
    )
    (new,) = [each for each in answers if each.meaning is Meaning.NEW]
    assert {each.record.key for each in answers} == {new.record.key}
    assert sum(each.meaning is Meaning.ATTACHED for each in answers) == 9
    assert (await bench.ledger.usage()).queued == 1
    assert (await bench.ledger.get(new.record.key)).last_sequence == 1


async def test_a_submission_that_is_sent_again_is_the_one_it_was(bench: Bench) -> None:
    given = submission(b"accepted")
    first = await bench.ledger.submit(given)
    assert await bench.ledger.submit(given) == first


async def test_a_submission_after_the_end_is_given_what_came_of_it(bench: Bench) -> None:
    key = await ended(bench.ledger, submission(request_id="mine"))
    again = await bench.ledger.submit(submission(request_id="mine"))
    assert (again.meaning, again.record.key) == (Meaning.REPLAYED, key)
    assert again.record.outcome == b"result"


async def test_a_request_id_with_other_parameters_is_refused(bench: Bench) -> None:
    first = submission(request_id="mine")
    await bench.ledger.submit(first)
    with pytest.raises(RequestIdReused, match=f"'mine' .* {first.key.job_id}"):
        await bench.ledger.submit(submission(request_id="mine", fingerprint="other"))
    assert (await bench.ledger.usage()).queued == 1


async def test_a_request_id_means_nothing_to_another_tenant(bench: Bench) -> None:
    await bench.ledger.submit(submission(request_id="mine"))
    other = await bench.ledger.submit(
        submission(tenant="bob", request_id="mine", fingerprint="other")
    )
    assert other.meaning is Meaning.NEW


async def test_a_request_id_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="client_request_id: has 129 characters"):
        submission(request_id="x" * 129)


@pytest.mark.parametrize("deadline", [-1.0, float("inf"), float("nan")])
def test_a_deadline_that_is_no_time_is_refused(deadline: float) -> None:
    with pytest.raises(InvalidRequest, match=f"scheduling.deadline: is {deadline}; allowed are 0"):
        Scheduling(deadline=deadline)


async def test_jobs_without_a_request_id_are_jobs_of_their_own(bench: Bench) -> None:
    await bench.ledger.submit(submission())
    assert (await bench.ledger.submit(submission())).meaning is Meaning.NEW


async def test_jobs_are_claimed_by_priority_then_deadline_then_submission(bench: Bench) -> None:
    now = bench.clock.now
    order = [
        Scheduling(Priority.INTERACTIVE, now + 900),
        Scheduling(Priority.INTERACTIVE),
        Scheduling(Priority.STANDARD, now + 5),
        Scheduling(Priority.STANDARD, now + 5),
        Scheduling(Priority.STANDARD, now + 60),
        Scheduling(Priority.STANDARD),
        Scheduling(Priority.BATCH, now + 1),
    ]
    given = [submission(scheduling=each) for each in order]
    for number in (5, 1, 6, 2, 4, 0, 3):
        await bench.ledger.submit(given[number])
    claims = [await claimed(bench.ledger) for _ in order]
    assert [each.key for each in claims] == [each.key for each in given]
    assert await bench.ledger.claim("worker", LEASE_SECONDS) is None


async def test_a_job_whose_deadline_has_passed_is_given_to_whoever_ends_it(bench: Bench) -> None:
    late = Scheduling(deadline=bench.clock.now + 5)
    await bench.ledger.submit(given := submission(scheduling=late))
    bench.clock.now += 10
    assert (await claimed(bench.ledger)).key == given.key


async def test_a_tenant_has_no_more_open_jobs_than_allowed_however_it_submits_them(
    bench: Bench,
) -> None:
    given = [submission(request_id=str(number), max_open_jobs=3) for number in range(10)]
    answers = await asyncio.gather(
        *(bench.doors[number % 2].submit(one) for number, one in enumerate(given)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, QuotaExceeded)]
    assert len(refused) == 7
    assert "concurrent_jobs is 3" in str(refused[0])
    assert refused[0].retry_after_seconds == 1.0
    assert await bench.ledger.open_jobs("ada") == 3
    # What is open is found again, and others have jobs of their own.
    accepted = [one for one, answer in zip(given, answers, strict=True) if answer not in refused]
    assert (await bench.ledger.submit(accepted[0])).record.key == accepted[0].key
    await bench.ledger.submit(submission(tenant="bob", max_open_jobs=1))
    # Whatever ends one makes room.
    await bench.ledger.cancel(accepted[0].key, b"cancelled")
    await bench.ledger.submit(submission(max_open_jobs=3))
    claim = await claimed(bench.ledger)
    await bench.ledger.give_back(claim)
    assert await bench.ledger.open_jobs("ada") == 3
    claim = await claimed(bench.ledger)
    await bench.ledger.finish(claim, JobState.FAILED, b"", [])
    assert await bench.ledger.open_jobs("ada") == 2
    assert await bench.ledger.open_jobs("nobody") == 0


async def test_claims_of_which_nothing_came_are_counted_until_something_does(bench: Bench) -> None:
    ledger = bench.ledger
    await ledger.submit(submission())

    async def claimed_again() -> Claim:
        bench.clock.now += LEASE_SECONDS
        return await claimed(ledger)

    for times in range(1, 4):
        claim = await claimed_again()
        assert claim.record.fruitless_claims == times
        await ledger.append(claim, [b"step"], completed_steps=0)
    await ledger.append(claim, [], completed_steps=2)
    assert (await ledger.get(claim.key)).fruitless_claims == 0
    claim = await claimed_again()
    # A step that was told before is no progress, and neither is another try.
    await ledger.append(claim, [b"step"], completed_steps=2)
    await ledger.count_failure(claim, StageTask.DENOISE)
    claim = await claimed_again()
    assert claim.record.fruitless_claims == 2
    await ledger.advance(claim, LATENTS, b"latents", completed_steps=1)
    assert (await ledger.get(claim.key)).completed_steps == 1
    await claimed_again()
    claim = await claimed_again()
    assert claim.record.fruitless_claims == 2
    await ledger.give_back(claim)
    claim = await claimed(ledger)
    assert claim.record.fruitless_claims == 1
    await ledger.finish(claim, JobState.SUCCEEDED, b"", [], completed_steps=3)
    record = await ledger.get(claim.key)
    assert (record.completed_steps, record.fruitless_claims) == (3, 0)


async def test_two_workers_at_once_never_have_the_same_job(bench: Bench) -> None:
    given = [submission() for _ in range(20)]
    for each in given:
        await bench.ledger.submit(each)

    async def work(ledger: JobLedger, worker: str) -> list[JobKey]:
        done = []
        while claim := await ledger.claim(worker, LEASE_SECONDS):
            await ledger.append(claim, [worker.encode()])
            await ledger.finish(claim, JobState.SUCCEEDED, worker.encode(), [])
            done.append(claim.key)
        return done

    first, second = await asyncio.gather(work(bench.doors[0], "a"), work(bench.doors[1], "b"))
    assert sorted(first + second, key=str) == sorted((each.key for each in given), key=str)
    for key in first:
        assert [event.data for event in await all_events(bench.ledger, key)] == [b"a"]


async def test_a_lease_that_is_renewed_does_not_end(bench: Bench) -> None:
    await bench.ledger.submit(submission())
    claim = await claimed(bench.ledger)
    bench.clock.now += LEASE_SECONDS - 1
    await bench.ledger.renew(claim, LEASE_SECONDS)
    bench.clock.now += LEASE_SECONDS - 1
    assert await bench.doors[1].claim("other", LEASE_SECONDS) is None


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_worker_whose_lease_has_ended_writes_nothing_more(
    bench: Bench, write: Callable[[JobLedger, Claim], Awaitable[object]]
) -> None:
    await bench.ledger.submit(submission(b"accepted"))
    old = await claimed(bench.ledger, "old")
    await bench.ledger.append(old, [b"step"])
    bench.clock.now += LEASE_SECONDS
    new = await claimed(bench.doors[1], "new")
    assert (new.key, new.token) == (old.key, old.token + 1)
    # A job starts once, however often it is claimed.
    assert new.record.start_time == old.record.start_time == bench.clock.now - LEASE_SECONDS
    before = await bench.ledger.get(old.key)
    with pytest.raises(ClaimLost, match="old no longer has the job"):
        await write(bench.ledger, old)
    assert await bench.ledger.get(old.key) == before
    assert await bench.doors[1].append(new, [b"step again"]) == 3
    # Nor once the other one has ended the job.
    await bench.doors[1].finish(new, JobState.SUCCEEDED, b"result", [])
    with pytest.raises(ClaimLost):
        await write(bench.ledger, old)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_lease_that_was_found_to_have_ended_is_lost_before_the_next_claim(
    bench: Bench, write: Callable[[JobLedger, Claim], Awaitable[object]]
) -> None:
    urgent = submission(scheduling=Scheduling(Priority.INTERACTIVE))
    await bench.ledger.submit(submission())
    old = await claimed(bench.ledger)
    await bench.ledger.submit(urgent)
    bench.clock.now += LEASE_SECONDS
    assert (await claimed(bench.ledger)).key == urgent.key
    with pytest.raises(ClaimLost):
        await write(bench.ledger, old)
    assert (await bench.ledger.get(old.key)).state is JobState.QUEUED


async def test_a_job_that_is_given_back_is_next_in_its_old_place(bench: Bench) -> None:
    await bench.ledger.submit(submission())
    first = await claimed(bench.ledger)
    await bench.ledger.submit(submission())
    await bench.ledger.give_back(first)
    again = await claimed(bench.ledger)
    assert (again.key, again.token) == (first.key, 2)


async def test_a_job_that_is_given_back_for_later_waits(bench: Bench) -> None:
    await bench.ledger.submit(submission())
    first = await claimed(bench.ledger)
    await bench.ledger.give_back(first, 5.0)
    assert (await bench.ledger.get(first.key)).state is JobState.QUEUED
    bench.clock.now += 4
    assert await bench.ledger.claim("worker", LEASE_SECONDS) is None
    bench.clock.now += 1
    assert (await claimed(bench.ledger)).key == first.key


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_cancelled_job_takes_nothing_more_from_its_worker(
    bench: Bench, write: Callable[[JobLedger, Claim], Awaitable[object]]
) -> None:
    await bench.ledger.submit(submission(b"accepted"))
    claim = await claimed(bench.ledger)
    record = await bench.doors[1].cancel(claim.key, b"cancelled")
    assert (record.state, record.end_time) == (JobState.CANCELLED, bench.clock.now)
    with pytest.raises(Cancelled, match=claim.key.job_id):
        await write(bench.ledger, claim)
    assert [event.data for event in await all_events(bench.ledger, claim.key)] == [
        b"accepted",
        b"cancelled",
    ]
    usage = await bench.ledger.usage()
    assert (usage.queued, usage.held, usage.ended) == (0, 0, 1)


async def test_a_job_that_waits_is_cancelled_and_never_claimed(bench: Bench) -> None:
    given = submission()
    await bench.ledger.submit(given)
    await bench.ledger.cancel(given.key, b"cancelled")
    assert await bench.ledger.claim("worker", LEASE_SECONDS) is None


async def test_a_job_that_waits_for_its_next_try_is_cancelled_and_never_claimed(
    bench: Bench,
) -> None:
    await bench.ledger.submit(submission())
    claim = await claimed(bench.ledger)
    await bench.ledger.give_back(claim, 5.0)
    await bench.ledger.cancel(claim.key, b"cancelled")
    bench.clock.now += 5
    assert await bench.ledger.claim("worker", LEASE_SECONDS) is None


async def test_cancelling_a_job_that_has_ended_changes_nothing(bench: Bench) -> None:
    key = await ended(bench.ledger, submission())
    before = await bench.ledger.get(key)
    assert await bench.ledger.cancel(key, b"cancelled") == before
    assert await bench.ledger.get(key) == before


async def test_nobody_finds_a_job_that_never_was_or_is_anothers(bench: Bench) -> None:
    given = submission()
    await bench.ledger.submit(given)
    for key in (NOBODY, JobKey("bob", given.key.job_id)):
        with pytest.raises(JobNotFound, match=key.job_id):
            await bench.ledger.get(key)
        with pytest.raises(JobNotFound):
            await bench.ledger.cancel(key, b"cancelled")
        with pytest.raises(JobNotFound):
            await all_events(bench.ledger, key)
    assert (await bench.ledger.get(given.key)).state is JobState.QUEUED
    assert (await bench.ledger.list_jobs("bob")).records == ()
