"""Generations and downloads whose connection breaks."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from tests.integration.client_flavours import FLAVOURS, Flavour, refusing
from tests.integration.scripted_cluster import (
    JOB_ID,
    PICTURE,
    Broken,
    ScriptedGateway,
    artifact,
    refuse,
    serving,
    successful_run,
)
from tests.integration.scripted_jobs import Context, ScriptedJobs, chunks_of
from triptych import ArtifactCorruptedError, UnavailableError, UnimplementedError
from triptych.v1 import generation_service_pb2 as messages

Responses = AsyncIterator[messages.GenerateResponse]


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return request.param()


async def test_a_generation_whose_stream_breaks_goes_on_after_the_last_event(
    flavour: Flavour,
) -> None:
    gateway = ScriptedJobs(breaks=[5, 6])
    async with serving(gateway) as target:
        events = await flavour.emitted(target, "stream", "a red circle")
        whole = await flavour.emitted(target, "stream", "a red circle")
    assert gateway.watched_after == [5, 6]
    assert events == whole
    assert events[-1].generation.data == PICTURE
    assert len(gateway.requests) == 2
    assert not gateway.job_cancelled.is_set()


async def test_bytes_that_came_before_the_break_are_downloaded_again(flavour: Flavour) -> None:
    gateway = ScriptedJobs()

    async def half(request: messages.GenerateRequest, context: Context) -> Responses:
        for each in gateway.events[:-1]:
            yield messages.GenerateResponse(event=each)
        for chunk in list(chunks_of(PICTURE)(0))[:4]:
            yield messages.GenerateResponse(artifact_chunk=chunk)
        raise Broken

    gateway._script = half
    async with serving(gateway) as target:
        generation = await flavour.returned(target, "generate", "a red circle")
    assert generation.data == PICTURE
    assert gateway.watched_after == [len(gateway.events) - 1]


async def test_leaving_a_generation_that_went_on_elsewhere_cancels_its_job(
    flavour: Flavour,
) -> None:
    gateway = ScriptedJobs(breaks=[3], endless=True)
    async with serving(gateway) as target:
        await flavour.leave_after(target, 4, "stream", "a red circle")
        await asyncio.wait_for(gateway.job_cancelled.wait(), 10)


async def test_a_generation_that_breaks_before_its_first_event_is_not_repeated(
    flavour: Flavour,
) -> None:
    async def broken(request: messages.GenerateRequest, context: Context) -> Responses:
        raise Broken
        yield

    gateway = ScriptedGateway(broken)
    async with serving(gateway) as target:
        with pytest.raises(UnavailableError):
            await flavour.returned(target, "generate", "a red circle")
    assert len(gateway.requests) == 1


async def first_event(request: messages.GenerateRequest, context: Context) -> Responses:
    yield next(iter(successful_run()))
    raise Broken


async def test_where_jobs_are_not_served_a_broken_generation_is_what_it_was(
    flavour: Flavour,
) -> None:
    async with serving(ScriptedGateway(first_event)) as target:
        with pytest.raises(UnavailableError, match="Socket closed"):
            await flavour.returned(target, "generate", "a red circle")
        with pytest.raises(UnimplementedError):
            await flavour.returned(target, "submit", "a red circle")


async def test_a_job_that_went_with_its_gateway_fails_as_the_stream_did(flavour: Flavour) -> None:
    gateway = ScriptedJobs()
    gateway._script = first_event
    gateway._check = refusing_jobs
    async with serving(gateway) as target:
        with pytest.raises(UnavailableError, match="Socket closed"):
            await flavour.returned(target, "generate", "a red circle")
    assert not gateway.job_cancelled.is_set()


async def refusing_jobs(job_id: str, context: Context) -> None:
    await refuse(context, grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", "there is no job")


async def test_another_gateway_at_the_same_address_goes_on(flavour: Flavour) -> None:
    first, second = ScriptedJobs(endless=True), ScriptedJobs()
    first.events = first.events[:4]

    async def gateways() -> None:
        async with serving(first) as target:
            addressed.set_result(target)
            await asyncio.wait_for(first.all_told.wait(), 10)
        async with serving(second, target):
            await done.wait()

    addressed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()
    serving_both = asyncio.create_task(gateways())
    generation = await flavour.returned(await addressed, "generate", "a red circle")
    done.set()
    await serving_both
    assert generation.data == PICTURE
    assert (len(first.requests), second.requests, second.watched_after) == (1, [], [4])


async def test_a_download_that_breaks_goes_on_at_the_next_byte(flavour: Flavour) -> None:
    def broken_once(offset: int) -> Iterator[messages.ArtifactChunk]:
        yield from list(chunks_of(PICTURE)(offset))[:4]
        if offset < 6000:
            raise Broken
        yield from list(chunks_of(PICTURE)(offset))[4:]

    gateway = ScriptedJobs()
    gateway.artifacts[JOB_ID] = broken_once
    async with serving(gateway) as target:
        download = await flavour.download(target, JOB_ID)
    assert download.data == PICTURE
    assert gateway.offsets == [0, 3000, 6000]


async def test_a_download_goes_on_only_with_the_same_artifact(flavour: Flavour) -> None:
    def changed(offset: int) -> Iterator[messages.ArtifactChunk]:
        if offset:
            yield from chunks_of(PICTURE[::-1])(offset)
        yield from list(chunks_of(PICTURE)(offset))[:4]
        raise Broken

    gateway = ScriptedJobs()
    gateway.artifacts[JOB_ID] = changed
    async with serving(gateway) as target:
        with pytest.raises(ArtifactCorruptedError, match="changed while it was downloaded"):
            await flavour.download(target, JOB_ID)


async def test_a_download_whose_status_alone_is_lost_is_whole(flavour: Flavour) -> None:
    def whole(offset: int) -> Iterator[messages.ArtifactChunk]:
        yield messages.ArtifactChunk(artifact=artifact(), data=PICTURE)
        raise Broken

    gateway = ScriptedJobs()
    gateway.artifacts[JOB_ID] = whole
    async with serving(gateway) as target:
        assert (await flavour.download(target, JOB_ID)).data == PICTURE
    assert gateway.offsets == [0]


async def test_a_refused_generation_is_sent_once(flavour: Flavour) -> None:
    gateway = ScriptedGateway(refusing(grpc.StatusCode.UNAVAILABLE, "STAGE_UNAVAILABLE", "down"))
    async with serving(gateway) as target:
        with pytest.raises(UnavailableError, match="down"):
            await flavour.returned(target, "generate", "a red circle")
    assert len(gateway.requests) == 1
