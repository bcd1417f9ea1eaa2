import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from services.domain.job_event import JobEvent
from services.gateway.access import ANYBODY
from services.gateway.pipeline import Pipeline
from services.gateway.quotas import Quotas
from services.gateway.received_images import ReceivedImage
from services.gateway.replicas import ReplicaPools
from tests.unit.domain.examples import CAPABILITIES, REQUEST_ID
from tests.unit.gateway.kept_artifacts import results
from tests.unit.gateway.scripted_stages import IMAGE_LATENTS, ScriptedCluster
from triptych.domain.conditioning_reuse import ConditioningPart, ConditioningReuse
from triptych.domain.deadline import Deadline
from triptych.domain.errors import QueueFull
from triptych.domain.events import StageCompleted, StageStarted
from triptych.domain.generation import GenerationRequest
from triptych.domain.generation_result import GenerationResult
from triptych.domain.input_image import ImageDescription
from triptych.domain.stage_timing import StageTask

IMAGES = (b"one", b"other")
REQUEST = GenerationRequest(
    prompt="a red circle",
    images=tuple(
        ImageDescription(width=64, height=64, size_bytes=len(each), checksum_xxh3=0)
        for each in IMAGES
    ),
)
RELEASED = [[("default", REQUEST_ID)]] * 3


def received() -> tuple[ReceivedImage, ...]:
    async def load(data: bytes) -> bytes:
        return data

    return tuple(
        ReceivedImage(described, partial(load, data))
        for described, data in zip(REQUEST.images, IMAGES, strict=True)
    )


async def _ignore(serving: bool) -> None:
    pass


class Editor:
    """A pipeline over scripted stages whose model takes two pictures."""

    def __init__(self) -> None:
        self.cluster = ScriptedCluster()
        self.cluster.limit(replace(CAPABILITIES, min_images=1, max_images=2))
        stages = self.cluster
        self.pools = ReplicaPools(
            [stages.encoder], [stages.denoiser], [stages.vae], poll_seconds=60, on_change=_ignore
        )
        self.pipeline = Pipeline(self.pools, Quotas(), results())

    def generate(self) -> AsyncGenerator[JobEvent, None]:
        return self.pipeline.generate(
            REQUEST,
            images=received(),
            tenant=ANYBODY,
            job_id=REQUEST_ID,
            deadline=Deadline.after(600),
        )

    async def all_of(self) -> list[JobEvent]:
        async with aclosing(self.generate()) as events:
            return [event async for event in events]


@asynccontextmanager
async def _editor() -> AsyncIterator[Editor]:
    editor = Editor()
    await editor.pools.look()
    async with asyncio.timeout(30):
        yield editor
        await editor.pipeline.close()
        assert [each.running for each in editor.cluster.stages.values()] == [0, 0, 0]


async def test_pictures_reach_the_encoder_and_the_vae_and_their_latents_the_denoiser() -> None:
    async with _editor() as editor:
        await editor.all_of()
    (encode,) = editor.cluster.encoder.requests
    assert encode.images == IMAGES
    asked = editor.cluster.vae.image_requests
    assert [(each.index, each.image) for each in asked] == [(0, b"one"), (1, b"other")]
    (denoise,) = editor.cluster.denoiser.requests
    assert list(denoise.image_latents) == IMAGE_LATENTS


async def test_the_events_tell_of_every_task_and_timings_of_pictures_are_summed() -> None:
    async with _editor() as editor:
        events = await editor.all_of()
    started = [each.task for each in events if isinstance(each, StageStarted)]
    assert started == list(StageTask)
    timings = {each.timing.task: each.timing for each in events if isinstance(each, StageCompleted)}
    assert set(timings) == set(StageTask)
    one, both = timings[StageTask.DECODE], timings[StageTask.ENCODE_IMAGES]
    assert both.run_seconds == 2 * one.run_seconds
    assert both.queue_seconds == 2 * one.queue_seconds
    completed = events[-1]
    assert isinstance(completed, GenerationResult)
    assert len(completed.stage_timings) == 4


async def test_each_task_is_told_when_it_ends_and_the_result_has_them_in_that_order() -> None:
    async with _editor() as editor:
        editor.cluster.encoder.may_go_on.clear()
        seen: list[StageTask] = []
        events = editor.generate()
        async for event in events:
            if isinstance(event, StageCompleted):
                seen.append(event.timing.task)
                editor.cluster.encoder.may_go_on.set()
            elif isinstance(event, GenerationResult):
                assert [each.task for each in event.stage_timings] == seen
    assert seen == [
        StageTask.ENCODE_IMAGES,
        StageTask.ENCODE_PROMPT,
        StageTask.DENOISE,
        StageTask.DECODE,
    ]


async def test_a_written_prompt_is_told_at_the_end_and_changes_no_parameter() -> None:
    async with _editor() as editor:
        editor.cluster.encoder.written_prompt = "a red circle, in oil"
        events = await editor.all_of()
    completed = events[-1]
    assert isinstance(completed, GenerationResult)
    assert completed.written_prompt == "a red circle, in oil"
    assert completed.parameters.prompt == "a red circle"


async def test_what_encoder_and_vae_looked_up_is_summed_at_the_end() -> None:
    async with _editor() as editor:
        prompt = ConditioningReuse(ConditioningPart.PROMPT, 1, 1)
        editor.cluster.encoder.conditioning_reuse = (
            prompt,
            ConditioningReuse(ConditioningPart.IMAGE, 2, 0),
        )
        editor.cluster.vae.conditioning_reuse = (ConditioningReuse(ConditioningPart.IMAGE, 1, 1),)
        events = await editor.all_of()
    completed = events[-1]
    assert isinstance(completed, GenerationResult)
    both = ConditioningReuse(ConditioningPart.IMAGE, 4, 2)
    assert completed.conditioning_reuse == (prompt, both)


async def test_prompt_and_pictures_are_encoded_at_the_same_time() -> None:
    async with _editor() as editor:
        encoder, vae = editor.cluster.encoder, editor.cluster.vae
        encoder.waits = vae.waits = True
        task = asyncio.create_task(editor.all_of())
        await encoder.reached.wait()
        await vae.reached.wait()
        assert (encoder.running, vae.running) == (1, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await editor.pipeline.close()
        assert editor.cluster.releases == RELEASED


@pytest.mark.parametrize(("failing", "waiting"), [("encoder", "vae"), ("vae", "encoder")])
async def test_a_stage_that_fails_stops_the_other_at_once(failing: str, waiting: str) -> None:
    async with _editor() as editor:
        error = QueueFull("stage", 3, 2.0)
        editor.cluster.stages[waiting].waits = True
        editor.cluster.stages[failing].fails = error
        with pytest.raises(QueueFull) as caught:
            await editor.all_of()
        assert caught.value is error
        assert editor.cluster.stages[waiting].running == 0
        await editor.pipeline.close()
        assert editor.cluster.releases == RELEASED
        assert editor.cluster.denoiser.requests == []


async def test_whoever_leaves_while_pictures_are_encoded_stops_both() -> None:
    async with _editor() as editor:
        editor.cluster.vae.waits = True
        events = editor.generate()
        async for event in events:
            if isinstance(event, StageCompleted):
                break
        await editor.cluster.vae.reached.wait()
        await events.aclose()
        await editor.pipeline.close()
        assert editor.cluster.releases == RELEASED
