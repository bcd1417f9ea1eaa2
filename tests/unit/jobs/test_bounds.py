from dataclasses import replace

from services.jobs.bounds import MAX_FRUITLESS_CLAIMS, end_time, why_not_run
from services.jobs.record import JobKey, JobRecord
from triptych.domain.errors import DeadlineExceeded
from triptych.domain.job import JobState, Scheduling

NOW = 1_700_000_000.0
RECORD = JobRecord(
    key=JobKey("ada", "0" * 32),
    client_request_id="",
    fingerprint="",
    parameters=b"",
    scheduling=Scheduling(),
    state=JobState.RUNNING,
    attempt=9,
    create_time=NOW - 100,
    start_time=NOW - 50,
    size_bytes=0,
)


def scheduled(deadline: float | None = None, max_run_seconds: float | None = None) -> JobRecord:
    given = Scheduling(deadline=deadline, max_run_seconds=max_run_seconds)
    return replace(RECORD, scheduling=given)


def test_a_job_ends_by_its_deadline_or_by_how_long_it_may_run_whichever_is_first() -> None:
    assert end_time(RECORD) is None
    assert end_time(scheduled(NOW + 5)) == NOW + 5
    assert end_time(scheduled(NOW + 5, 60)) == NOW + 5
    assert end_time(scheduled(NOW + 20, 60)) == NOW + 10


def test_a_job_that_has_not_begun_has_its_time_to_run_before_it() -> None:
    assert end_time(replace(scheduled(max_run_seconds=60), start_time=None)) is None


def test_a_job_that_was_claimed_after_its_time_is_not_worked_on() -> None:
    assert why_not_run(scheduled(NOW + 1), NOW) is None
    assert isinstance(why_not_run(scheduled(NOW), NOW), DeadlineExceeded)
    assert isinstance(why_not_run(scheduled(max_run_seconds=50), NOW), DeadlineExceeded)


def test_a_job_that_ended_every_process_that_began_it_is_given_to_no_other() -> None:
    last = replace(RECORD, fruitless_claims=MAX_FRUITLESS_CLAIMS)
    assert why_not_run(last, NOW) is None
    refused = why_not_run(replace(last, fruitless_claims=MAX_FRUITLESS_CLAIMS + 1), NOW)
    assert refused is not None
    assert "begun 5 times, and nothing came of it" in str(refused)
