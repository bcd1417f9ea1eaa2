"""What becomes of a job when stages, stores and gateways fail."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.artifacts.room import Limits
from services.domain.job_event import ArtifactChunk
from services.jobs.ledger import Claim
from services.jobs.memory_ledger import MemoryLedger
from services.jobs.record import JobKey
from tests.unit.domain.examples import capacity
from tests.unit.gateway.scripted_gateway import ScriptedGateway
from tests.unit.gateway.scripted_stages import SAVED, ScriptedDenoiser, ScriptedVae
from triptych.domain.errors import (
    HandedOver,
    LedgerUnavailable,
    QueueFull,
    RanksLost,
    StageUnavailable,
    StoreFull,
    TriptychError,
)
from triptych.domain.events import CheckpointSaved, StepCompleted
from triptych.domain.generation import GenerationRequest
from triptych.domain.generation_result import GenerationResult
from triptych.domain.job import JobState
from triptych.domain.model import Stage

REQUEST = GenerationRequest(prompt="a red circle", seed=7)
FAILURES = [
    StageUnavailable("it is down"),
    RanksLost("a rank died"),
    StoreFull("no room"),
    TriptychError("a defect"),
]
each_failure = pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)


@asynccontextmanager
async def _gateway(*more: Any, **told: Any) -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway(REQUEST, more=more, **told)
    async with gateway.running():
        yield gateway


async def _ended(gateway: ScriptedGateway, key: JobKey) -> JobState:
    async for _ in gateway.ledger.watch(key):
        pass
    return (await gateway.ledger.get(key)).state


@each_failure
@pytest.mark.parametrize("stage", ["encoder", "denoiser", "vae"])
async def test_a_stage_that_fails_once_costs_nobody_anything(
    stage: str, error: TriptychError
) -> None:
    async with _gateway() as gateway:
        gateway.cluster.stages[stage].fails_once(error)
        key = await gateway.submit()
        assert await _ended(gateway, key) is JobState.SUCCEEDED
        assert (await gateway.ledger.get(key)).failures != {}


@each_failure
async def test_another_denoiser_goes_on_where_one_fails(error: TriptychError) -> None:
    other = ScriptedDenoiser()
    other.capacity_now = capacity(Stage.DENOISER, "painter", queued_requests=9)
    async with _gateway(other) as gateway:
        gateway.cluster.denoiser.fails = error
        assert isinstance((await gateway.all_of())[-1], GenerationResult)
        assert (len(gateway.cluster.denoiser.requests), len(other.requests)) == (1, 1)
        assert len(gateway.cluster.encoder.requests) == 1


async def test_another_denoiser_goes_on_from_the_last_checkpoint() -> None:
    other = ScriptedDenoiser()
    other.capacity_now = capacity(Stage.DENOISER, "painter", queued_requests=9)
    async with _gateway(other) as gateway:
        gateway.cluster.denoiser.checkpoint = SAVED
        gateway.cluster.denoiser.fails = HandedOver("draining")
        events = await gateway.all_of()
        assert [event.step for event in events if isinstance(event, StepCompleted)] == [1, 2]
        assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [1]
        (first,), (second,) = gateway.cluster.denoiser.requests, other.requests
        assert (first.resume_from, second.resume_from) == (None, SAVED)
        assert (first.can_hand_over, second.can_hand_over) == (True, True)
        assert (await gateway.ledger.get(gateway.keys[0])).failures == {}


async def test_another_gateway_goes_on_from_the_last_checkpoint() -> None:
    ledger = MemoryLedger()
    first = ScriptedGateway(REQUEST, shared=True, ledger=ledger)
    first.cluster.denoiser.checkpoint = SAVED
    key = await _left_by(first)
    second = ScriptedGateway(REQUEST, shared=True, ledger=ledger)
    async with second.running():
        assert await _ended(second, key) is JobState.SUCCEEDED
        (asked,) = second.cluster.denoiser.requests
        assert (asked.resume_from, asked.can_hand_over) == (SAVED, False)


async def test_a_full_denoiser_is_passed_over_before_anybody_is_told() -> None:
    other = ScriptedDenoiser()
    other.capacity_now = capacity(Stage.DENOISER, "painter", queued_requests=9)
    async with _gateway(other) as gateway:
        gateway.cluster.denoiser.refuses = QueueFull("denoiser", 3, 2.0)
        assert isinstance((await gateway.all_of())[-1], GenerationResult)
        assert len(other.requests) == 1
        assert (await gateway.ledger.get(gateway.keys[0])).failures == {}


async def test_a_vae_that_came_after_the_steps_began_decodes_when_the_first_one_is_gone() -> None:
    other = ScriptedVae()
    other.capacity_now = None
    async with _gateway(other) as gateway:
        gateway.cluster.denoiser.may_go_on.clear()
        drawing = asyncio.create_task(gateway.all_of())
        await gateway.cluster.denoiser.reached.wait()
        gateway.cluster.vae.capacity_now = None
        other.capacity_now = capacity(Stage.VAE, "painter")
        for _ in range(2):
            await gateway.pools.look()
        gateway.cluster.denoiser.may_go_on.set()
        assert isinstance((await drawing)[-1], GenerationResult)
        assert (len(gateway.cluster.vae.requests), len(other.requests)) == (0, 1)
        assert len(gateway.cluster.denoiser.requests) == 1


async def test_a_submitted_job_is_done_though_nobody_watches_it() -> None:
    async with _gateway() as gateway:
        key = await gateway.submit()
        assert await _ended(gateway, key) is JobState.SUCCEEDED
        job = await gateway.desk.get(key)
        assert job.result is not None
        assert (job.completed_steps, job.total_steps) == (2, 20)
        assert gateway.cluster.releases == [[gateway.released]] * 3


async def test_a_submitted_job_waits_for_a_full_stage() -> None:
    async with _gateway() as gateway:
        gateway.cluster.denoiser.refuses = QueueFull("denoiser", 3, 0.01)
        key = await gateway.submit()
        await gateway.cluster.denoiser.refused.wait()
        gateway.cluster.denoiser.refuses = None
        assert await _ended(gateway, key) is JobState.SUCCEEDED


async def test_a_cancelled_job_stops_the_stage_at_work_and_leaves_nothing() -> None:
    async with _gateway() as gateway:
        gateway.cluster.denoiser.waits = True
        key = await gateway.submit()
        await gateway.cluster.denoiser.reached.wait()
        assert (await gateway.desk.cancel(key)).state is JobState.CANCELLED
        await gateway.cluster.denoiser.stopped.wait()
        await gateway.settle()
        assert gateway.cluster.releases == [[gateway.released]] * 3
        assert (await gateway.desk.cancel(key)).state is JobState.CANCELLED


async def test_the_deadline_ends_a_job_that_waits() -> None:
    async with _gateway() as gateway:
        gateway.cluster.denoiser.refuses = StageUnavailable("it is down")
        key = await gateway.submit(seconds=0.3)
        assert await _ended(gateway, key) is JobState.FAILED
        failure = (await gateway.desk.get(key)).failure
        assert failure is not None
        assert failure.retryable


async def test_what_the_artifact_store_has_no_room_for_goes_to_the_caller_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _gateway() as gateway:
        monkeypatch.setattr(gateway.calls, "limits", _no_room)
        events = await gateway.all_of()
        chunks = [event for event in events if isinstance(event, ArtifactChunk)]
        assert b"".join(chunk.data for chunk in chunks) == b"abcdef"
        result = events[-1]
        assert isinstance(result, GenerationResult)
        assert result.artifacts[0].expire_time is None


def _no_room(tenant: object, *, result: bool) -> Limits:
    return Limits(1, 1.0)


async def _left_by(gateway: ScriptedGateway) -> JobKey:
    """A job that a gateway gives back in the middle of its steps."""
    await gateway.pools.look()
    running = asyncio.create_task(gateway.runner.run())
    gateway.cluster.denoiser.waits = True
    key = await gateway.submit()
    await gateway.cluster.denoiser.reached.wait()
    gateway.runner.drain()
    await gateway.runner.finish(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return key


async def test_another_gateway_goes_on_with_what_a_drained_one_gave_back() -> None:
    ledger = MemoryLedger()
    first = ScriptedGateway(REQUEST, shared=True, ledger=ledger)
    key = await _left_by(first)
    assert first.cluster.denoiser.running == 0
    assert first.cluster.releases == [[], [], []], "who goes on needs what is stored"
    second = ScriptedGateway(REQUEST, shared=True, ledger=ledger)
    async with second.running():
        assert await _ended(second, key) is JobState.SUCCEEDED
        # The conditioning was there, and steps that were told are not told again.
        assert len(second.cluster.encoder.requests) == 0
        assert [asked.attempt for asked in second.cluster.denoiser.requests] == [2]
        assert (await ledger.get(key)).completed_steps == 2


async def test_a_gateway_that_lost_its_claim_stops_and_releases_nothing() -> None:
    ledger = MemoryLedger()
    first = ScriptedGateway(REQUEST, shared=True, ledger=ledger, job_lease_seconds=0.3)
    async with first.running():
        first.cluster.denoiser.waits = True
        key = await first.submit()
        await first.cluster.denoiser.reached.wait()
        record = await ledger.get(key)
        await ledger.give_back(Claim(key, record.attempt, record.worker, record))
        stolen = await ledger.claim("another", 60)
        assert stolen is not None
        await first.cluster.denoiser.stopped.wait()
        await first.settle()
        assert first.cluster.releases == [[], [], []]


async def test_a_ledger_that_is_away_for_a_while_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _gateway() as gateway:
        gateway.cluster.denoiser.may_go_on.clear()
        drawing = asyncio.create_task(gateway.all_of())
        await gateway.cluster.denoiser.reached.wait()
        with monkeypatch.context() as away:
            for name in ("append", "advance", "renew", "finish"):
                away.setattr(gateway.ledger, name, _unavailable)
            gateway.cluster.denoiser.may_go_on.set()
            # All of the work is done before the ledger is back.
            await gateway.cluster.vae.release_asked.wait()
            assert not drawing.done()
        assert isinstance((await drawing)[-1], GenerationResult)


async def _unavailable(*_: object, **__: object) -> None:
    raise LedgerUnavailable("it is away")


async def test_a_job_that_five_workers_died_of_is_given_up() -> None:
    ledger = MemoryLedger()
    gateway = ScriptedGateway(REQUEST, shared=True, ledger=ledger)
    await gateway.pools.look()
    key = await gateway.submit()
    for number in range(5):
        assert await ledger.claim(f"worker {number}", 0.001)
        await asyncio.sleep(0.005)
        await ledger.sweep()
    async with gateway.running():
        assert await _ended(gateway, key) is JobState.FAILED
        assert gateway.cluster.encoder.requests == []
