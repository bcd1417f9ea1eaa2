import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from services.jobs.journal import Journal
from services.jobs.ledger import Claim, JobLedger
from services.jobs.record import EVENT_OVERHEAD_BYTES, OutputSlot
from tests.unit.jobs.benches import LEASE_SECONDS, Bench, all_events, claimed, submission
from tests.unit.jobs.scripted_ledger import ScriptedLedger
from tests.unit.jobs.virtual_time import in_virtual_time
from triptych.domain.errors import Cancelled, ClaimLost
from triptych.domain.job import JobState
from triptych.domain.stage_timing import StageTask

LATENTS = OutputSlot(StageTask.DENOISE)
PATIENCE_SECONDS = 60.0
STEP_SECONDS = 0.5


def journal_of(ledger: ScriptedLedger, claim: Claim, **options: Any) -> Journal:
    return Journal(cast(JobLedger, ledger), claim, LEASE_SECONDS, **options)


@asynccontextmanager
async def working(
    seconds: float = 0.0, **options: Any
) -> AsyncIterator[tuple[ScriptedLedger, Claim, Journal]]:
    """A worker of a ledger that takes so long for each call."""
    ledger = ScriptedLedger(seconds)
    claim = await ledger.claimed()
    async with journal_of(ledger, claim, **options) as journal:
        yield ledger, claim, journal


async def steps_of(journal: Journal, seconds: float) -> int:
    """Takes steps, which wait for nothing; returns how many there were."""
    loop = asyncio.get_running_loop()
    began, number = loop.time(), 0
    while loop.time() < began + seconds:
        await asyncio.sleep(STEP_SECONDS)
        number += 1
        journal.record(b"%d" % number, number)
        await journal.room()
    assert loop.time() == pytest.approx(began + number * STEP_SECONDS)
    return number


async def told(ledger: ScriptedLedger, claim: Claim) -> list[int]:
    """The steps that were told of a job that has ended."""
    events = await all_events(ledger.kept, claim.key)
    return [int(event.data) for event in events]


@in_virtual_time
async def test_what_gathers_during_a_write_is_written_at_once() -> None:
    async with working(seconds=1) as (ledger, claim, journal):
        journal.record(b"0", 0)
        await asyncio.sleep(0.5)
        for number in range(1, 100):
            journal.record(b"%d" % number, number)
        await journal.flush()
        assert ledger.calls == ["append", "append"]
        assert (await ledger.kept.get(claim.key)).completed_steps == 99
        await journal.finish(JobState.SUCCEEDED, b"result")
        assert await told(ledger, claim) == list(range(100))


@in_virtual_time
async def test_outputs_and_the_end_take_the_events_before_them_along() -> None:
    async with working() as (ledger, claim, journal):
        journal.record(b"1", 1)
        await journal.advance(LATENTS, b"latents", [b"2"])
        await journal.count_failure(StageTask.DECODE)
        journal.record(b"3")
        await journal.finish(JobState.FAILED, b"failure", [b"4"])
        assert ledger.calls == ["advance", "count_failure", "finish"]
        record = await ledger.kept.get(claim.key)
        assert (record.state, record.outcome) == (JobState.FAILED, b"failure")
        assert (record.outputs, record.completed_steps) == ({LATENTS: b"latents"}, 1)
        assert record.failures == {StageTask.DECODE: 1}
        assert await told(ledger, claim) == [1, 2, 3, 4]
        assert not journal.lost.done()


@in_virtual_time
async def test_a_ledger_that_takes_five_seconds_for_each_call_holds_up_no_step() -> None:
    async with working(seconds=5) as (ledger, claim, journal):
        working_on_it = asyncio.create_task(steps_of(journal, 60))
        while not working_on_it.done():
            await asyncio.sleep(0.25)
            assert await ledger.rival() is None
        await journal.finish(JobState.SUCCEEDED, b"result")
        assert working_on_it.result() == 120
        assert ledger.calls.count("append") <= 13
        assert await told(ledger, claim) == list(range(1, 121))


@in_virtual_time
async def test_a_ledger_that_is_gone_for_half_a_minute_stops_no_step() -> None:
    async with working() as (ledger, claim, journal):
        await steps_of(journal, 5)
        before = ledger.calls.count("append")
        ledger.away_until = asyncio.get_running_loop().time() + 30
        await steps_of(journal, 29)
        # It was asked again about once a second, rather than for every step.
        assert ledger.calls.count("append") - before < 40
        await asyncio.sleep(3)
        assert await ledger.rival() is None
        before = ledger.calls.count("append")
        await journal.finish(JobState.SUCCEEDED, b"result")
        assert ledger.calls.count("append") == before
        assert await told(ledger, claim) == [*range(1, 11), *range(1, 59)]


@in_virtual_time
async def test_a_job_that_another_took_meanwhile_is_left_to_it() -> None:
    async with working() as (ledger, claim, journal):
        ledger.away_until = 30
        await steps_of(journal, 20)
        rival = await ledger.rival()
        assert rival is not None
        assert rival.key == claim.key
        # Told by the ledger, which heard of it, or by the next that it is asked.
        error = await journal.lost
        assert isinstance(error, ClaimLost)
        assert asyncio.get_running_loop().time() < 32
        journal.record(b"late")
        for late in (journal.room(), journal.flush(), journal.finish(JobState.FAILED, b"")):
            with pytest.raises(ClaimLost):
                await late
        await ledger.kept.finish(rival, JobState.SUCCEEDED, b"", [])
        assert await told(ledger, claim) == []


@in_virtual_time
async def test_a_ledger_that_does_not_come_back_is_not_waited_for_without_end() -> None:
    async with working(patience_seconds=PATIENCE_SECONDS) as (ledger, _, journal):
        ledger.away_until = 3600
        with pytest.raises(ClaimLost, match="did not answer for 60 s"):
            await steps_of(journal, 3600)
        assert 0 <= asyncio.get_running_loop().time() - PATIENCE_SECONDS <= LEASE_SECONDS


@in_virtual_time
async def test_a_cancelled_job_is_noticed_at_once_though_nothing_is_written() -> None:
    async with working() as (ledger, claim, journal):
        await asyncio.sleep(1.1)
        await ledger.kept.cancel(claim.key, b"cancelled")
        assert isinstance(await journal.lost, Cancelled)
        assert asyncio.get_running_loop().time() == pytest.approx(1.1)
        assert ledger.calls == []


@in_virtual_time
async def test_a_cancelled_job_is_noticed_though_the_ledger_was_away_then() -> None:
    async with working() as (ledger, claim, journal):
        ledger.away_until = 30
        await asyncio.sleep(10)
        await ledger.kept.cancel(claim.key, b"cancelled")
        assert isinstance(await journal.lost, Cancelled)


@in_virtual_time
async def test_a_claim_is_kept_for_as_long_as_it_is_worked_on() -> None:
    async with working() as (ledger, claim, journal):
        for _ in range(100):
            await asyncio.sleep(1)
            assert await ledger.rival() is None
        assert set(ledger.calls) == {"renew"}
        assert len(ledger.calls) == pytest.approx(100 / (LEASE_SECONDS / 3), abs=1)
        assert not journal.lost.done()
    # Nobody renews it any more.
    await asyncio.sleep(LEASE_SECONDS)
    rival = await ledger.rival()
    assert rival is not None
    assert rival.key == claim.key


@in_virtual_time
async def test_whoever_notes_more_than_there_is_room_for_waits() -> None:
    event = b"x" * 36
    size = len(event) + EVENT_OVERHEAD_BYTES
    async with working(seconds=1, max_bytes=3 * size) as (ledger, claim, journal):
        for _ in range(2):
            journal.record(event)
            await journal.room()
        assert asyncio.get_running_loop().time() == 0
        journal.record(event)
        await journal.room()
        assert asyncio.get_running_loop().time() == 1
        await journal.flush()
        assert (await ledger.kept.get(claim.key)).last_sequence == 3


@in_virtual_time
async def test_the_end_is_not_taken_for_a_loss_by_those_who_renew_meanwhile() -> None:
    for end in ("finish", "give_back"):
        async with working() as (ledger, _, journal):
            # It was carried out, and renewals are refused before anybody hears of it.
            ledger.answer_seconds[end] = 9
            if end == "finish":
                await journal.finish(JobState.SUCCEEDED, b"result")
            else:
                await journal.give_back()
            assert "renew" in ledger.calls
            assert not journal.lost.done()


@in_virtual_time
async def test_a_job_that_was_cancelled_is_not_ended_in_another_way() -> None:
    async with working(seconds=1) as (ledger, claim, journal):
        ending = asyncio.create_task(journal.finish(JobState.SUCCEEDED, b"result"))
        await asyncio.sleep(0.5)
        await ledger.kept.cancel(claim.key, b"cancelled")
        with pytest.raises(Cancelled):
            await ending
        assert (await ledger.kept.get(claim.key)).state is JobState.CANCELLED


@in_virtual_time
async def test_a_job_is_given_back_with_all_that_was_told_of_it() -> None:
    async with working() as (ledger, claim, journal):
        journal.record(b"1", 1)
        await journal.give_back(after_seconds=5)
    assert await ledger.rival() is None
    await asyncio.sleep(5)
    again = await ledger.rival()
    assert again is not None
    assert (again.token, again.record.completed_steps) == (claim.token + 1, 1)


@in_virtual_time
async def test_an_error_that_nobody_expects_is_not_kept_from_the_worker() -> None:
    async with working() as (_, _, journal):
        journal.record(b"1", cast(int, "one"))
        assert isinstance(await journal.lost, TypeError)


@in_virtual_time
async def test_nothing_runs_on_once_a_journal_is_closed() -> None:
    others = asyncio.all_tasks()
    async with working(seconds=5) as (_, _, journal):
        journal.record(b"1")
        await asyncio.sleep(LEASE_SECONDS / 2)
    assert asyncio.all_tasks() == others


async def test_a_job_is_written_and_ended_in_every_ledger(bench: Bench) -> None:
    await bench.ledger.submit(submission(b"accepted"))
    claim = await claimed(bench.ledger)
    async with Journal(bench.ledger, claim, LEASE_SECONDS) as journal:
        for number in range(50):
            journal.record(b"step", number)
        await journal.advance(LATENTS, b"latents", [b"denoised"])
        await journal.finish(JobState.SUCCEEDED, b"result", [b"end"])
    record = await bench.ledger.get(claim.key)
    assert (record.state, record.outputs) == (JobState.SUCCEEDED, {LATENTS: b"latents"})
    assert (record.last_sequence, record.completed_steps) == (53, 49)


async def test_a_job_that_is_cancelled_at_another_door_is_noticed(bench: Bench) -> None:
    await bench.ledger.submit(submission())
    claim = await claimed(bench.ledger)
    async with Journal(bench.ledger, claim, 600) as journal:
        await bench.doors[1].cancel(claim.key, b"cancelled")
        async with asyncio.timeout(30):
            assert isinstance(await journal.lost, Cancelled)
