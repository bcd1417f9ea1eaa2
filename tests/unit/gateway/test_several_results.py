"""One request for several pictures."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from services.domain.job_event import ArtifactChunk, JobEvent
from services.gateway.together import together
from tests.unit.gateway.scripted_gateway import ScriptedGateway
from triptych.domain.errors import DeadlineExceeded, TriptychError
from triptych.domain.events import StepCompleted
from triptych.domain.generation import GenerationRequest
from triptych.domain.generation_result import GenerationResult

REQUEST = GenerationRequest(prompt="a red circle", seed=5, num_images=3)


@asynccontextmanager
async def _painter() -> AsyncIterator[ScriptedGateway]:
    painter = ScriptedGateway(REQUEST)
    async with painter.running():
        yield painter


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
    assert [artifact for artifact in described if artifact] == list(result.artifacts)
    steps = [event.image_index for event in events if isinstance(event, StepCompleted)]
    assert sorted(set(steps)) == [0, 1, 2]
    assert painter.cluster.releases == [[painter.released]] * 3


async def test_a_prompt_that_a_language_model_writes_by_the_seed_is_written_for_each() -> None:
    async with _painter() as painter:
        painter.cluster.encoder.written_prompt = "a very red circle"
        await painter.all_of()
    seeds = [request.parameters.seed for request in painter.cluster.encoder.requests]
    assert sorted(seeds) == [5, 6, 7]


async def test_a_result_that_fails_ends_the_others_and_leaves_nothing() -> None:
    async with _painter() as painter:
        painter.cluster.denoiser.fails = DeadlineExceeded("it took too long")
        with pytest.raises(TriptychError, match="too long"):
            await painter.all_of()
    assert painter.cluster.releases == [[painter.released]] * 3


async def test_whoever_leaves_stops_every_result() -> None:
    async with _painter() as painter:
        painter.cluster.denoiser.waits = True
        events = painter.generate()
        async with aclosing(events):
            reading = asyncio.create_task(_drain(events))
            await painter.cluster.denoiser.reached.wait()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    assert painter.cluster.releases == [[painter.released]] * 3


async def _drain(events: AsyncGenerator[JobEvent, None]) -> None:
    async for _ in events:
        pass


async def test_the_first_failure_ends_all_that_is_done_together() -> None:
    ended = []

    async def part(name: str, fails: bool) -> str:
        try:
            if fails:
                raise ValueError(name)
            await asyncio.Event().wait()
        finally:
            ended.append(name)
        return name

    with pytest.raises(ValueError, match="b"):
        await together(part("a", fails=False), part("b", fails=True), part("c", fails=False))
    assert sorted(ended) == ["a", "b", "c"]
