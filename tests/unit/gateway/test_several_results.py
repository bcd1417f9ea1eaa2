"""One request for several pictures."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from services.domain.job_event import ArtifactChunk, JobEvent
from services.gateway.access import ANYBODY
from services.gateway.merged import merged
from services.gateway.pipeline import Pipeline
from services.gateway.quotas import Quotas
from services.gateway.replicas import ReplicaPools
from tests.unit.domain.examples import REQUEST_ID
from tests.unit.gateway.kept_artifacts import results
from tests.unit.gateway.scripted_stages import ScriptedCluster
from triptych.domain.deadline import Deadline
from triptych.domain.errors import StageUnavailable, TriptychError
from triptych.domain.events import StepCompleted
from triptych.domain.generation import GenerationRequest
from triptych.domain.generation_result import GenerationResult

REQUEST = GenerationRequest(prompt="a red circle", seed=5, num_images=3)
RELEASED = [[("default", REQUEST_ID)]] * 3


async def _ignore(serving: bool) -> None:
    pass


class Painter:
    """A pipeline over scripted stages."""

    def __init__(self) -> None:
        self.cluster = stages = ScriptedCluster()
        self.pools = ReplicaPools(
            [stages.encoder], [stages.denoiser], [stages.vae], poll_seconds=60, on_change=_ignore
        )
        self.pipeline = Pipeline(self.pools, Quotas(), results())

    def generate(self) -> AsyncGenerator[JobEvent, None]:
        return self.pipeline.generate(
            REQUEST, tenant=ANYBODY, job_id=REQUEST_ID, deadline=Deadline.after(600)
        )

    async def all_of(self) -> list[JobEvent]:
        async with aclosing(self.generate()) as events:
            return [event async for event in events]

    @property
    def releases(self) -> list[list[tuple[str, str]]]:
        return [stage.releases for stage in self.cluster.stages.values()]


@asynccontextmanager
async def _painter() -> AsyncIterator[Painter]:
    painter = Painter()
    await painter.pools.look()
    async with asyncio.timeout(30):
        yield painter
        await painter.pipeline.close()
        assert [stage.running for stage in painter.cluster.stages.values()] == [0, 0, 0]


async def test_the_prompt_is_encoded_once_and_each_result_has_the_next_seed() -> None:
    async with _painter() as painter:
        await painter.all_of()
    assert len(painter.cluster.encoder.requests) == 1
    asked = sorted(painter.cluster.denoiser.requests, key=lambda request: request.image_index)
    assert [request.image_index for request in asked] == [0, 1, 2]
    assert [request.parameters.seed for request in asked] == [5, 6, 7]
    assert [request.parameters.num_images for request in asked] == [1, 1, 1]
    assert len({request.place for request in asked}) == 3


async def test_artifacts_come_in_order_and_each_says_which_it_is() -> None:
    async with _painter() as painter:
        events = await painter.all_of()
    result = events[-1]
    assert isinstance(result, GenerationResult)
    assert [artifact.index for artifact in result.artifacts] == [0, 1, 2]
    assert len({artifact.artifact_id for artifact in result.artifacts}) == 3
    described = [event.artifact for event in events if isinstance(event, ArtifactChunk)]
    assert [artifact for artifact in described if artifact] == [
        replace(artifact, expire_time=None) for artifact in result.artifacts
    ]
    steps = [event.image_index for event in events if isinstance(event, StepCompleted)]
    assert sorted(set(steps)) == [0, 1, 2]
    assert painter.releases == RELEASED


async def test_a_prompt_that_a_language_model_writes_by_the_seed_is_written_for_each() -> None:
    async with _painter() as painter:
        painter.cluster.encoder.written_prompt = "a very red circle"
        await painter.all_of()
    seeds = [request.parameters.seed for request in painter.cluster.encoder.requests]
    assert sorted(seeds) == [5, 6, 7]


async def test_a_result_that_fails_ends_the_others_and_leaves_nothing() -> None:
    async with _painter() as painter:
        painter.cluster.denoiser.fails = StageUnavailable("the denoiser is down")
        with pytest.raises(TriptychError, match="is down"):
            await painter.all_of()
    assert painter.releases == RELEASED


async def test_whoever_leaves_stops_every_result() -> None:
    async with _painter() as painter:
        painter.cluster.denoiser.waits = True
        events = painter.generate()
        async with aclosing(events):
            reading = asyncio.create_task(_drain(events))
            await painter.cluster.denoiser.reached.wait()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    assert painter.releases == RELEASED


async def _drain(events: AsyncGenerator[JobEvent, None]) -> None:
    async for _ in events:
        pass


async def test_merged_sources_are_all_closed_when_one_fails() -> None:
    closed = []

    async def source(name: str, fails: bool) -> AsyncGenerator[str, None]:
        try:
            yield name
            if fails:
                raise ValueError(name)
            await asyncio.Event().wait()
        finally:
            closed.append(name)

    events = merged([source("a", fails=False), source("b", fails=True)])
    assert [await anext(events), await anext(events)] == ["a", "b"]
    with pytest.raises(ValueError, match="b"):
        await anext(events)
    assert sorted(closed) == ["a", "b"]
