"""Jobs that outlive the calls that submit and watch them."""

import asyncio
import time

import grpc
import pytest
from google.rpc import error_details_pb2

from tests.integration.client_flavours import FLAVOURS, Flavour
from tests.integration.scripted_cluster import (
    JOB_ID,
    PICTURE,
    break_off,
    duration,
    event,
    refuse,
    serving,
    successful_run,
)
from tests.integration.scripted_jobs import Context, Fault, ScriptedJobs, numbered
from triptych import (
    Accepted,
    AlreadyExistsError,
    CancelledError,
    CheckpointSaved,
    Client,
    Completed,
    InternalError,
    InvalidRequestError,
    JobState,
    NotFoundError,
    Priority,
    ResourceExhaustedError,
    Scheduling,
    StepCompleted,
    UnavailableError,
)
from triptych.v1 import generation_service_pb2 as messages
from triptych.v1 import job_pb2


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return request.param()


def asking_for(seconds: float, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Fault:
    """Refuses a call, and says when to repeat it."""

    async def fault(context: Context) -> None:
        delay = error_details_pb2.RetryInfo(retry_delay=duration(seconds))
        await refuse(context, code, "LEDGER_UNAVAILABLE", "the ledger is away", delay)

    return fault


async def test_a_submission_is_a_job_and_says_how_urgent_it_is(flavour: Flavour) -> None:
    gateway = ScriptedJobs()
    scheduling = Scheduling(Priority.BATCH, deadline=1_900_000_000.5, max_queue_seconds=60)
    async with serving(gateway) as target:
        job = await flavour.returned(
            target, "submit", "a red circle", request_id="mine", steps=3, scheduling=scheduling
        )
    assert (job.job_id, job.state, job.create_time) == (JOB_ID, JobState.QUEUED, 1_800_000_000)
    assert (job.parameters.seed, job.last_sequence, job.result) == (7, len(gateway.events), None)
    (asked,) = gateway.submissions
    assert (asked.client_request_id, asked.parameters.steps) == ("mine", 3)
    assert asked.scheduling.priority == job_pb2.PRIORITY_BATCH
    assert asked.scheduling.deadline.ToMilliseconds() == 1_900_000_000_500
    assert asked.scheduling.max_queue_duration == duration(60)
    assert not asked.scheduling.HasField("max_run_duration")


async def test_a_lost_answer_to_a_submission_is_asked_for_again_under_the_same_id(
    flavour: Flavour,
) -> None:
    gateway = ScriptedJobs(faults=[break_off])
    async with serving(gateway) as target:
        job = await flavour.returned(target, "submit", "a red circle")
        await flavour.returned(target, "submit", "a red circle")
    assert job.job_id == JOB_ID
    first, again, other = (request.client_request_id for request in gateway.submissions)
    assert first == again != other
    assert len(first) == 32


async def test_a_request_id_that_came_with_another_request_is_refused_once(
    flavour: Flavour,
) -> None:
    gateway = ScriptedJobs()
    async with serving(gateway) as target:
        await flavour.returned(target, "submit", "a red circle", request_id="mine")
        with pytest.raises(AlreadyExistsError, match="'mine' came before"):
            await flavour.returned(target, "submit", "a blue circle", request_id="mine")
    assert len(gateway.submissions) == 2


@pytest.mark.parametrize("method", ["get", "cancel"])
async def test_what_is_safe_is_repeated_after_the_delay_that_the_cluster_asks_for(
    flavour: Flavour, method: str
) -> None:
    gateway = ScriptedJobs(faults=[asking_for(0.8)])
    async with serving(gateway) as target:
        began = time.monotonic()
        job = await flavour.returned(target, method, JOB_ID)
        took = time.monotonic() - began
    assert (job.job_id, gateway.calls) == (JOB_ID, 2)
    assert took >= 0.8


async def test_a_delay_beyond_the_deadline_is_not_waited_for(flavour: Flavour) -> None:
    gateway = ScriptedJobs(faults=[asking_for(60)])
    async with serving(gateway) as target:
        with pytest.raises(UnavailableError, match="the ledger is away") as refused:
            await flavour.returned(target, "get", JOB_ID, timeout=30)
    assert (refused.value.retry_after_seconds, gateway.calls) == (60, 1)


async def test_what_fails_again_and_again_is_given_up(flavour: Flavour) -> None:
    gateway = ScriptedJobs(faults=[asking_for(0.01)] * 9)
    async with serving(gateway) as target:
        with pytest.raises(UnavailableError):
            await flavour.returned(target, "get", JOB_ID)
    assert gateway.calls == 4


async def test_a_full_cluster_is_told_of_and_not_asked_again(flavour: Flavour) -> None:
    gateway = ScriptedJobs(faults=[asking_for(0.01, grpc.StatusCode.RESOURCE_EXHAUSTED)])
    async with serving(gateway) as target:
        with pytest.raises(ResourceExhaustedError):
            await flavour.returned(target, "submit", "a red circle")
    assert gateway.calls == 1


async def test_a_watch_that_breaks_goes_on_after_the_last_event(flavour: Flavour) -> None:
    gateway = ScriptedJobs(breaks=[3, 6])
    async with serving(gateway) as target:
        events = await flavour.emitted(target, "watch", JOB_ID)
        whole = await flavour.emitted(target, "watch", JOB_ID)
    assert gateway.watched_after == [0, 3, 6, 0]
    assert events == whole
    assert [type(events[0]), type(events[-1])] == [Accepted, Completed]
    assert events[0].job_id == JOB_ID
    assert events[-1].generation.data == PICTURE
    assert [each.step for each in events if isinstance(each, StepCompleted)] == [1, 2, 3]


async def test_a_watch_begins_after_the_event_that_is_known(flavour: Flavour) -> None:
    gateway = ScriptedJobs()
    last = len(gateway.events)
    async with serving(gateway) as target:
        (event,) = await flavour.emitted(target, "watch", JOB_ID, after_sequence=last - 1)
    assert event.generation.job_id == JOB_ID
    assert gateway.watched_after == [last - 1]


async def test_a_checkpoint_is_an_event(flavour: Flavour) -> None:
    responses = [*successful_run()]
    responses.insert(4, event(checkpoint_saved=job_pb2.CheckpointSaved(step=1)))
    async with serving(ScriptedJobs(numbered(iter(responses)))) as target:
        events = await flavour.emitted(target, "watch", JOB_ID)
    assert events[4] == CheckpointSaved(step=1)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([1, 2, 2], "the event 2 came after the event 2"),
        ([1, 3], "the event 3 came after the event 1"),
        ([1, 2, 1], "the event 1 came after the event 2"),
        ([0], "the event 0 came after the event 0"),
    ],
    ids=["duplicate", "gap", "backwards", "unnumbered"],
)
async def test_events_that_are_missing_or_come_twice_are_refused(
    flavour: Flavour, numbers: list[int], said: str
) -> None:
    gateway = ScriptedJobs()
    for each, number in zip(gateway.events, numbers, strict=False):
        each.sequence = number
    async with serving(gateway) as target:
        with pytest.raises(InternalError, match=said):
            await flavour.emitted(target, "watch", JOB_ID)
    assert gateway.watched_after == [0]


async def test_a_watch_of_a_job_that_fails_or_is_cancelled_raises_why(flavour: Flavour) -> None:
    failed = job_pb2.JobFailed(status="UNAVAILABLE", reason="RANKS_LOST", message="a rank died")
    cancelled = job_pb2.JobCancelled(completed_steps=4)
    async with serving(ScriptedJobs(numbered(iter([event(failed=failed)])))) as target:
        with pytest.raises(UnavailableError, match="a rank died"):
            await flavour.emitted(target, "watch", JOB_ID)
    gateway = ScriptedJobs(numbered(iter([event(cancelled=cancelled)])))
    async with serving(gateway) as target:
        with pytest.raises(CancelledError, match="after 4 steps"):
            await flavour.emitted(target, "watch", JOB_ID)
    assert gateway.watched_after == [0]


async def test_an_unknown_job_is_not_found_and_not_asked_for_again(flavour: Flavour) -> None:
    gateway = ScriptedJobs()
    async with serving(gateway) as target:
        with pytest.raises(NotFoundError, match="there is no job 'nothing'"):
            await flavour.emitted(target, "watch", "nothing")
        with pytest.raises(NotFoundError, match="there is no job 'nothing'"):
            await flavour.returned(target, "cancel", "nothing")
        with pytest.raises(NotFoundError, match="there is no job 'nothing'"):
            await flavour.returned(target, "fetch", "nothing")
    assert (gateway.watched_after, gateway.calls) == ([0], 2)


async def test_leaving_a_watch_leaves_the_job_alone(flavour: Flavour) -> None:
    gateway = ScriptedJobs(breaks=[3], endless=True)
    async with serving(gateway) as target:
        await flavour.leave_after(target, 4, "watch", JOB_ID)
    assert not gateway.job_cancelled.is_set()


async def test_closing_the_client_ends_its_watches() -> None:
    gateway = ScriptedJobs(endless=True)
    gateway.events.pop()

    def watch(client: Client) -> None:
        for _ in client.watch(JOB_ID):
            pass

    async with serving(gateway) as target:
        with Client(target) as client:
            watching = asyncio.create_task(asyncio.to_thread(watch, client))
            await asyncio.wait_for(gateway.all_told.wait(), 10)
        with pytest.raises(CancelledError):
            await watching


async def test_a_result_is_fetched_from_the_last_event_on(flavour: Flavour) -> None:
    gateway = ScriptedJobs()
    async with serving(gateway) as target:
        generation = await flavour.returned(target, "fetch", JOB_ID)
    assert (generation.data, generation.job_id) == (PICTURE, JOB_ID)
    assert gateway.watched_after == [len(gateway.events) - 1]


async def test_jobs_are_listed_page_by_page(flavour: Flavour) -> None:
    gateway = ScriptedJobs()
    running, queued = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_QUEUED
    gateway.pages = [
        messages.ListJobsResponse(jobs=[gateway.job(running)], next_page_token="1"),
        messages.ListJobsResponse(next_page_token="2"),
        messages.ListJobsResponse(jobs=[gateway.job(queued)]),
    ]
    async with serving(gateway) as target:
        jobs = await flavour.emitted(target, "jobs", [JobState.QUEUED, "running"], page_size=1)
        with pytest.raises(InvalidRequestError, match="is lost; allowed are queued, running"):
            await flavour.emitted(target, "jobs", ["lost"])
    assert [job.state for job in jobs] == ["running", "queued"]
    assert [request.page_token for request in gateway.lists] == ["", "1", "2"]
    assert {tuple(request.states) for request in gateway.lists} == {(queued, running)}
    assert {request.page_size for request in gateway.lists} == {1}
