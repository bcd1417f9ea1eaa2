import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from services.domain.job_event import ArtifactChunk, JobEvent
from services.jobs import decide
from tests.unit.domain.examples import ARTIFACT
from tests.unit.gateway.scripted_gateway import ScriptedGateway
from tests.unit.gateway.scripted_stages import CONDITIONING, LATENTS
from triptych.domain.deadline import Deadline
from triptych.domain.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    RemoteFailure,
    StageUnavailable,
    TensorNotFound,
    TriptychError,
)
from triptych.domain.events import Accepted, StageCompleted, StageStarted, StepCompleted
from triptych.domain.generation import MAX_SEED, GenerationRequest
from triptych.domain.generation_result import GenerationResult
from triptych.domain.job import JobState
from triptych.domain.model import Stage
from triptych.domain.receipt import Fingerprint, Receipt, SoftwareVersion

REQUEST = GenerationRequest(prompt="a red circle", seed=7)
DRAWN = replace(ARTIFACT, latents_checksum_xxh3=77)
"""As the gateway gives it on: beside the latents that it was decoded of."""

STAGES = ["encoder", "denoiser", "vae"]
FINGERPRINT, VERSION = Fingerprint("vae/*.json", "a"), SoftwareVersion("torch", "2.13.0")
EVENTS = [
    "Accepted",
    "StageStarted encoder",
    "StageCompleted encoder",
    "StageStarted denoiser",
    "StepCompleted",
    "StepCompleted",
    "StageCompleted denoiser",
    "StageStarted vae",
    "StageCompleted vae",
    "ArtifactChunk",
    "GenerationResult",
]
each_stage = pytest.mark.parametrize("stage", STAGES)


@asynccontextmanager
async def _gateway(**told: Any) -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway(REQUEST, **told)
    async with gateway.running():
        yield gateway


def _name(event: JobEvent) -> str:
    name = type(event).__name__
    if isinstance(event, StageStarted):
        return f"{name} {event.stage}"
    if isinstance(event, StageCompleted):
        return f"{name} {event.timing.stage}"
    return name


async def test_events_come_in_the_order_of_the_stages() -> None:
    async with _gateway() as gateway:
        assert [_name(event) for event in await gateway.all_of()] == EVENTS


async def test_each_stage_gets_what_the_one_before_it_made() -> None:
    async with _gateway() as gateway:
        accepted, *_, completed = await gateway.all_of()
        assert isinstance(accepted, Accepted)
        assert isinstance(completed, GenerationResult)
        cluster, parameters = gateway.cluster, accepted.parameters
        asked: list[Any] = [
            *cluster.encoder.requests,
            *cluster.denoiser.requests,
            *cluster.vae.requests,
        ]
        assert {(each.tenant, each.request_id) for each in asked} == {gateway.released}
        assert {each.attempt for each in asked} == {1}
        assert all(each.parameters == parameters for each in asked)
        assert cluster.denoiser.requests[0].conditioning == CONDITIONING
        assert cluster.vae.requests[0].latents == LATENTS


async def test_the_result_tells_what_was_done() -> None:
    async with _gateway() as gateway:
        await gateway.say(FINGERPRINT, VERSION)
        events = await gateway.all_of()
    completed = events[-1]
    assert isinstance(completed, GenerationResult)
    assert completed.parameters.seed == 7
    assert completed.receipt == Receipt((FINGERPRINT,), (VERSION,))
    (artifact,) = completed.artifacts
    assert artifact.expire_time
    assert replace(artifact, expire_time=None) == DRAWN
    assert completed.latents_checksum_xxh3 == 77
    assert [each.stage for each in completed.stage_timings] == list(Stage)
    for each in completed.stage_timings:
        assert (each.queue_seconds, each.run_seconds, each.transfer_seconds) == (0.25, 1.5, 0.125)
        assert 0 < each.total_seconds <= completed.total_seconds
    assert completed.stage_timings == tuple(
        event.timing for event in events if isinstance(event, StageCompleted)
    )


async def test_the_artifacts_bytes_come_before_the_result_and_are_described() -> None:
    async with _gateway() as gateway:
        (chunk,) = [each for each in await gateway.all_of() if isinstance(each, ArtifactChunk)]
    assert chunk.artifact is not None
    assert chunk.artifact.expire_time
    assert replace(chunk.artifact, expire_time=None) == DRAWN
    assert (chunk.offset_bytes, chunk.data) == (0, b"abcdef")


async def test_a_seed_is_drawn_where_none_was_asked_and_every_program_can_hold_it() -> None:
    async with _gateway() as gateway:
        seeds = set()
        for _ in range(3):
            accepted = (await gateway.all_of(GenerationRequest(prompt="a")))[0]
            assert isinstance(accepted, Accepted)
            seeds.add(accepted.parameters.seed)
    assert len(seeds) == 3
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    # Nor do the seeds of a few hundred further pictures lose a digit where numbers are doubles.
    assert all(int(float(seed + 500)) == seed + 500 < 2**53 for seed in seeds)


async def test_everything_is_released_before_success_is_told() -> None:
    async with _gateway() as gateway:
        gateway.cluster.vae.may_release.clear()
        seen: list[str] = []

        async def read() -> None:
            async with aclosing(gateway.generate()) as events:
                async for event in events:
                    seen.append(_name(event))  # noqa: PERF401 - read while it grows

        reading = asyncio.create_task(read())
        await gateway.cluster.vae.release_asked.wait()
        assert "GenerationResult" not in seen
        gateway.cluster.vae.may_release.set()
        await reading
        assert seen == EVENTS
        assert gateway.cluster.releases == [[gateway.released]] * 3


@each_stage
@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceeded("late"),
        InvalidRequest.of("prompt", "has too many tokens"),
        RemoteFailure("it broke", status="ABORTED", reason="OTHER"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_is_not_tried_again_passes_unchanged_and_everything_is_released(
    stage: str, error: TriptychError
) -> None:
    async with _gateway() as gateway:
        gateway.cluster.stages[stage].fails = error
        with pytest.raises(TriptychError) as caught:
            await gateway.all_of()
        told = caught.value
        assert (told.status, told.reason, str(told)) == (error.status, error.reason, str(error))
        assert tuple(told.violations) == tuple(error.violations)
        await gateway.settle()
        assert gateway.cluster.releases == [[gateway.released]] * 3


@each_stage
async def test_a_defect_is_told_bare_and_everything_is_released(stage: str) -> None:
    async with _gateway() as gateway:
        gateway.cluster.stages[stage].fails = RuntimeError("a bug")
        with pytest.raises(TriptychError, match="failed at the job") as caught:
            await gateway.all_of()
        assert caught.value.status == "INTERNAL"
        await gateway.settle()
        assert gateway.cluster.releases == [[gateway.released]] * 3


@pytest.mark.parametrize("stage", ["encoder", "denoiser"])
async def test_a_stream_is_told_at_once_that_a_stage_is_full(stage: str) -> None:
    async with _gateway() as gateway:
        gateway.cluster.stages[stage].refuses = QueueFull(stage, 3, 2.0)
        with pytest.raises(TriptychError) as caught:
            await gateway.all_of()
        assert (caught.value.reason, caught.value.retry_after_seconds) == ("QUEUE_FULL", 2.0)


@pytest.mark.parametrize("stage", ["denoiser", "vae"])
@pytest.mark.parametrize(
    "error",
    [
        TensorNotFound("tensors: gone"),
        RemoteFailure("gone", status="NOT_FOUND", reason="TENSOR_NOT_FOUND"),
    ],
    ids=["in this process", "in another process"],
)
async def test_lost_tensors_are_made_again(stage: str, error: TriptychError) -> None:
    async with _gateway() as gateway:
        gateway.cluster.stages[stage].fails_once(error)
        events = [_name(event) for event in await gateway.all_of()]
        assert events[-1] == "GenerationResult"
        # Steps that are taken again are not told again.
        assert events.count("StepCompleted") == 2
        cluster = gateway.cluster
        asked = len(cluster.encoder.requests), len(cluster.denoiser.requests)
        assert asked == ((2, 2) if stage == "denoiser" else (1, 2))


async def test_tensors_that_are_lost_again_and_again_make_the_request_repeatable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decide, "_FIRST_PAUSE_SECONDS", 0.001)
    async with _gateway() as gateway:
        gateway.cluster.denoiser.fails = TensorNotFound("tensors: gone")
        with pytest.raises(TriptychError, match="repeat the request") as caught:
            await gateway.all_of()
        assert caught.value.status == "UNAVAILABLE"
        assert len(gateway.cluster.encoder.requests) == 11


@pytest.mark.parametrize("count", range(1, len(EVENTS)))
async def test_whoever_leaves_after_any_event_leaves_nothing_behind(count: int) -> None:
    async with _gateway() as gateway:
        events = gateway.generate()
        for name in EVENTS[:count]:
            assert _name(await anext(events)) == name
        await events.aclose()
        await gateway.settle()
        # By a worker that had begun with it, or not at all.
        assert all(set(each) <= {gateway.released} for each in gateway.cluster.releases)
        record = await gateway.ledger.get(gateway.keys[-1])
        assert record.state.has_ended


@each_stage
async def test_a_cancelled_task_stops_the_stage_at_work_and_releases(stage: str) -> None:
    async with _gateway() as gateway:
        at_work = gateway.cluster.stages[stage]
        at_work.waits = True
        task = asyncio.create_task(gateway.all_of())
        await at_work.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gateway.settle()
        assert at_work.running == 0
        assert gateway.cluster.releases == [[gateway.released]] * 3


async def test_whoever_leaves_need_not_wait_for_the_release() -> None:
    async with _gateway() as gateway:
        gateway.cluster.encoder.may_release.clear()
        gateway.cluster.denoiser.waits = True
        events = gateway.generate()
        await anext(events)
        await gateway.cluster.denoiser.reached.wait()
        await events.aclose()
        await gateway.cluster.encoder.release_asked.wait()
        settling = asyncio.create_task(gateway.settle())
        await asyncio.sleep(0)
        assert not settling.done()
        gateway.cluster.encoder.may_release.set()
        await settling


@each_stage
async def test_a_stage_that_hangs_over_the_release_costs_no_result(stage: str) -> None:
    async with _gateway() as gateway:
        at_fault = gateway.cluster.stages[stage]
        at_fault.may_release.clear()
        async with aclosing(gateway.generate(seconds=1)) as events:
            assert [_name(event) async for event in events] == EVENTS
        at_fault.may_release.set()


@each_stage
async def test_a_stage_that_cannot_release_keeps_neither_the_others_nor_the_result(
    stage: str,
) -> None:
    async with _gateway() as gateway:
        gateway.cluster.stages[stage].release_fails = StageUnavailable("it is down")
        assert _name((await gateway.all_of())[-1]) == "GenerationResult"
        assert gateway.cluster.releases == [[gateway.released]] * 3


@each_stage
async def test_stages_get_a_little_less_time_than_the_client_gave(stage: str) -> None:
    deadline = Deadline.after(600)
    async with _gateway() as gateway:
        await gateway.all_of()
        (given,) = gateway.cluster.stages[stage].deadlines
        assert -0.5 < deadline.monotonic_time - given.monotonic_time < 1


async def test_a_denoiser_that_ends_without_latents_is_a_failure() -> None:
    async with _gateway() as gateway:
        gateway.cluster.denoiser.ends_early = True
        with pytest.raises(TriptychError, match="the denoiser ended without latents"):
            await gateway.all_of()
        assert len(gateway.cluster.denoiser.requests) == 3
        await gateway.settle()
        assert gateway.cluster.releases == [[gateway.released]] * 3


@pytest.mark.parametrize("media", [(b"abcd",), (b"abcd", b"efg")])
async def test_media_of_another_size_than_announced_are_a_failure(media: tuple[bytes, ...]) -> None:
    async with _gateway() as gateway:
        gateway.cluster.vae.media = media
        with pytest.raises(TriptychError, match="before the artifact was complete"):
            await gateway.all_of()


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (GenerationRequest(prompt=""), InvalidRequest),
        (GenerationRequest(prompt="a", model="mona"), ModelNotFound),
    ],
)
async def test_a_request_that_is_refused_reaches_no_stage(
    request_: GenerationRequest, error: type[TriptychError]
) -> None:
    async with _gateway() as gateway:
        with pytest.raises(error):
            await gateway.all_of(request_)
        assert gateway.cluster.encoder.requests == []
        assert gateway.cluster.releases == [[], [], []]


async def test_two_jobs_do_not_mix() -> None:
    async with _gateway() as gateway:
        gateway.cluster.vae.artifact_id = None
        first, second = await asyncio.gather(gateway.all_of(), gateway.all_of())
        assert [_name(each) for each in first] == [_name(each) for each in second] == EVENTS
        assert sum(isinstance(each, StepCompleted) for each in first) == 2


async def test_a_denoiser_that_cancels_of_its_own_is_no_success() -> None:
    async with _gateway() as gateway:
        gateway.cluster.denoiser.fails = Cancelled("cancelled by name")
        with pytest.raises(TriptychError, match="cancelled by name"):
            await gateway.all_of()
        assert (await gateway.ledger.get(gateway.keys[-1])).state is JobState.FAILED
