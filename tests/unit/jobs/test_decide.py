from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from services.jobs.decide import Fail, Retry, decide
from services.jobs.record import JobKey, JobRecord, OutputSlot
from triptych.domain import errors
from triptych.domain.errors import RemoteFailure, TriptychError
from triptych.domain.job import JobState, Scheduling
from triptych.domain.stage_timing import StageTask

NOW = 1_700_000_000.0
RECORD = JobRecord(
    key=JobKey("ada", "0" * 32),
    client_request_id="",
    fingerprint="",
    parameters=b"",
    scheduling=Scheduling(),
    state=JobState.RUNNING,
    attempt=1,
    create_time=NOW - 100,
    start_time=NOW - 50,
    size_bytes=0,
)
LONGEST_PAUSE_SECONDS = 30.0 * 1.25

# Of every reason there is: how often it is tried again, where from, and whether by another job.
WITHOUT_END = 1000
THE_SAME, EARLIER = "the same task", "what the task reads"
EXPECTED = {
    "INTERNAL": (2, THE_SAME, True),
    "INVALID_REQUEST": (0, None, False),
    "NOT_FOUND": (2, THE_SAME, True),
    "MODEL_NOT_FOUND": (2, THE_SAME, True),
    "TENSOR_NOT_FOUND": (10, EARLIER, True),
    "JOB_NOT_FOUND": (0, None, True),
    "ARTIFACT_NOT_FOUND": (0, None, True),
    "OUT_OF_RANGE": (0, None, True),
    "EXPIRED": (0, None, True),
    "JOB_EXPIRED": (0, None, True),
    "EVENTS_EXPIRED": (0, None, True),
    "ALREADY_EXISTS": (20, THE_SAME, True),
    "REQUEST_ID_REUSED": (0, None, False),
    "CLAIM_LOST": (0, None, True),
    "SUPERSEDED": (0, None, True),
    "UNAUTHENTICATED": (0, None, False),
    "CALL_REFUSED": (0, None, False),
    "TENSOR_REFUSED": (10, EARLIER, True),
    "TENSOR_CORRUPTED": (10, EARLIER, True),
    "RESOURCE_EXHAUSTED": (20, THE_SAME, True),
    "STORE_FULL": (20, THE_SAME, True),
    "QUEUE_FULL": (WITHOUT_END, THE_SAME, True),
    "LEDGER_FULL": (20, THE_SAME, True),
    "QUOTA_EXCEEDED": (20, THE_SAME, True),
    "UNAVAILABLE": (20, THE_SAME, True),
    "STAGE_UNAVAILABLE": (20, THE_SAME, True),
    "STAGE_LOADING": (20, THE_SAME, True),
    "HANDED_OVER": (WITHOUT_END, THE_SAME, True),
    "RANKS_LOST": (5, THE_SAME, True),
    "LEDGER_UNAVAILABLE": (20, THE_SAME, True),
    "DEADLINE_EXCEEDED": (0, None, True),
    "CANCELLED": (0, None, True),
    "UNIMPLEMENTED": (2, THE_SAME, True),
    "CONFIGURATION": (2, THE_SAME, True),
}
BEFORE = {
    StageTask.ENCODE_PROMPT: StageTask.ENCODE_PROMPT,
    StageTask.ENCODE_IMAGES: StageTask.ENCODE_IMAGES,
    StageTask.DENOISE: StageTask.ENCODE_PROMPT,
    StageTask.DECODE: StageTask.DENOISE,
}


def _tree(root: type[TriptychError]) -> Iterator[type[TriptychError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


KINDS = [kind for kind in _tree(TriptychError) if kind is not RemoteFailure]


def of_kind(kind: type[TriptychError]) -> TriptychError:
    """As it comes from another process."""
    return RemoteFailure(
        "it broke",
        status=kind.status,
        reason=kind.reason,
        retry_after_seconds=kind.retry_after_seconds,
    )


def failed(task: StageTask, times: int) -> JobRecord:
    return replace(RECORD, failures={task: times})


def test_something_is_expected_of_every_kind_of_error() -> None:
    assert {kind.reason for kind in KINDS} == EXPECTED.keys()


@pytest.mark.parametrize("task", list(StageTask))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.reason)
def test_a_task_is_tried_as_often_as_may_help(kind: type[TriptychError], task: StageTask) -> None:
    tries, start, retryable = EXPECTED[kind.reason]
    for times in range(tries):
        verdict = decide(of_kind(kind), failed(task, times), task, NOW)
        assert isinstance(verdict, Retry)
        assert verdict.from_task is (BEFORE[task] if start == EARLIER else task)
        assert verdict.elsewhere is (start == THE_SAME)
    if tries != WITHOUT_END:
        verdict = decide(of_kind(kind), failed(task, tries), task, NOW)
        assert verdict == Fail(kind.reason, retryable=retryable)


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_is_decided_whatever_its_reason(code: grpc.StatusCode) -> None:
    if code is not grpc.StatusCode.OK:
        error = RemoteFailure("it broke", status=code.name, reason="OF_A_LATER_RELEASE")
        assert isinstance(decide(error, RECORD, StageTask.DENOISE, NOW), Retry | Fail)


def test_failures_of_another_task_do_not_count() -> None:
    record = failed(StageTask.DECODE, 1000)
    assert isinstance(decide(errors.RanksLost("lost"), record, StageTask.DENOISE, NOW), Retry)


def test_the_first_retry_is_at_once_and_later_ones_take_longer_each_time_up_to_a_bound() -> None:
    error = TriptychError("it broke")
    pauses = []
    for times in range(20):
        verdict = decide(
            RemoteFailure("down", status="UNAVAILABLE", reason="STAGE_UNAVAILABLE"),
            failed(StageTask.DECODE, times),
            StageTask.DECODE,
            NOW,
        )
        assert isinstance(verdict, Retry)
        pauses.append(verdict.after_seconds)
    assert pauses[0] == 0
    assert pauses[:8] == sorted(pauses[:8])
    assert max(pauses) <= LONGEST_PAUSE_SECONDS
    assert 300 < sum(pauses) < 700
    assert isinstance(decide(error, RECORD, StageTask.DECODE, NOW), Retry)


def test_a_request_that_was_handed_over_goes_on_at_once_whatever_failed_before() -> None:
    handed_over = errors.HandedOver("the denoiser is draining")
    for times in (0, 1, 1000):
        verdict = decide(handed_over, failed(StageTask.DENOISE, times), StageTask.DENOISE, NOW)
        assert verdict == Retry(0.0, StageTask.DENOISE, elsewhere=True, counts=False)


def test_whatever_else_a_task_is_tried_again_for_is_a_failure_of_it() -> None:
    for kind in KINDS:
        verdict = decide(of_kind(kind), RECORD, StageTask.DENOISE, NOW)
        assert isinstance(verdict, Fail) or verdict.counts is (kind is not errors.HandedOver)


def test_a_retry_waits_as_long_as_the_error_asks() -> None:
    error = RemoteFailure(
        "full", status="RESOURCE_EXHAUSTED", reason="QUEUE_FULL", retry_after_seconds=90.0
    )
    verdict = decide(error, failed(StageTask.DENOISE, 1), StageTask.DENOISE, NOW)
    assert isinstance(verdict, Retry)
    assert 90 <= verdict.after_seconds <= 90 * 1.25


def test_jobs_that_failed_together_come_back_one_after_the_other() -> None:
    error = errors.StageUnavailable("down")
    pauses = set()
    for number in range(50):
        record = replace(failed(StageTask.DECODE, 3), key=JobKey("ada", f"{number:032x}"))
        verdict = decide(error, record, StageTask.DECODE, NOW)
        assert isinstance(verdict, Retry)
        pauses.add(round(verdict.after_seconds, 3))
    assert len(pauses) > 40


FULL = errors.QueueFull("denoiser", 64, retry_after_seconds=1.0)


def scheduled(**scheduling: float) -> JobRecord:
    return replace(RECORD, scheduling=Scheduling(**scheduling))


def test_a_job_that_waits_in_no_queue_is_told_that_it_is_full() -> None:
    for task in (StageTask.ENCODE_PROMPT, StageTask.DENOISE):
        verdict = decide(FULL, scheduled(max_queue_seconds=0), task, NOW)
        assert verdict == Fail("QUEUE_FULL", retryable=True)


def test_a_job_waits_for_its_turn_as_long_as_it_was_told_to() -> None:
    assert isinstance(decide(FULL, scheduled(max_queue_seconds=101), StageTask.DENOISE, NOW), Retry)
    late = decide(FULL, scheduled(max_queue_seconds=99), StageTask.DENOISE, NOW)
    assert isinstance(late, Fail)


def test_what_is_broken_is_no_queue() -> None:
    error = errors.StageUnavailable("down")
    record = scheduled(max_queue_seconds=0)
    assert isinstance(decide(error, record, StageTask.DENOISE, NOW), Retry)


@pytest.mark.parametrize(
    "progress",
    [{"completed_steps": 1}, {"outputs": {OutputSlot(StageTask.DENOISE): b"latents"}}],
    ids=["steps", "latents"],
)
def test_steps_that_were_taken_are_not_thrown_away_for_want_of_a_place(
    progress: dict[str, Any],
) -> None:
    record = replace(scheduled(max_queue_seconds=0), **progress)
    assert isinstance(decide(FULL, record, StageTask.DECODE, NOW), Retry)


def test_a_job_is_told_why_it_failed_when_there_is_no_time_for_another_try() -> None:
    error = errors.StageUnavailable("down")
    for record, more in ((scheduled(deadline=NOW + 1), 2), (scheduled(max_run_seconds=51), 2)):
        # The first retry is at once, a later one would come too late.
        assert isinstance(decide(error, record, StageTask.DECODE, NOW), Retry)
        tried = replace(record, failures={StageTask.DECODE: more})
        verdict = decide(error, tried, StageTask.DECODE, NOW)
        assert verdict == Fail("STAGE_UNAVAILABLE", retryable=True)
