import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.domain.job_event import JobEvent
from services.gateway.received_images import ReceivedImage
from tests.unit.domain.examples import CAPABILITIES
from tests.unit.gateway.scripted_gateway import ScriptedGateway
from tests.unit.gateway.scripted_stages import IMAGE_LATENTS
from triptych.domain.conditioning_reuse import ConditioningPart, ConditioningReuse
from triptych.domain.errors import ArtifactNotFound, QueueFull, TensorRefused, TriptychError
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


def received() -> tuple[ReceivedImage, ...]:
    async def load(data: bytes) -> bytes:
        return data

    return tuple(
        ReceivedImage(described, partial(load, data))
        for described, data in zip(REQUEST.images, IMAGES, strict=True)
    )


class Editor(ScriptedGateway):
    """One whose model takes two pictures."""

    def __init__(self) -> None:
        super().__init__(REQUEST)
        self.cluster.limit(replace(CAPABILITIES, min_images=1, max_images=2))

    def edit(self) -> AsyncGenerator[JobEvent, None]:
        """What a client gets."""
        return self.generate(images=received())

    async def edited(self) -> list[JobEvent]:
        """All of it."""
        return await self.all_of(images=received())


@asynccontextmanager
async def _editor() -> AsyncIterator[Editor]:
    editor = Editor()
    async with editor.running():
        yield editor


async def test_pictures_reach_the_encoder_and_the_vae_and_their_latents_the_denoiser() -> None:
    async with _editor() as editor:
        await editor.edited()
    (encode,) = editor.cluster.encoder.requests
    assert encode.images == IMAGES
    asked = editor.cluster.vae.image_requests
    assert [(each.index, each.image) for each in asked] == [(0, b"one"), (1, b"other")]
    (denoise,) = editor.cluster.denoiser.requests
    assert list(denoise.image_latents) == IMAGE_LATENTS


async def test_the_events_tell_of_every_task_and_timings_of_pictures_are_summed() -> None:
    async with _editor() as editor:
        events = await editor.edited()
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


async def test_each_task_is_told_when_it_ends() -> None:
    async with _editor() as editor:
        editor.cluster.encoder.may_go_on.clear()
        seen: list[StageTask] = []
        events = editor.edit()
        async for event in events:
            if isinstance(event, StageCompleted):
                seen.append(event.timing.task)
                editor.cluster.encoder.may_go_on.set()
            elif isinstance(event, GenerationResult):
                assert {each.task for each in event.stage_timings} == set(seen)
    assert seen == [
        StageTask.ENCODE_IMAGES,
        StageTask.ENCODE_PROMPT,
        StageTask.DENOISE,
        StageTask.DECODE,
    ]


async def test_a_written_prompt_is_told_at_the_end_and_changes_no_parameter() -> None:
    async with _editor() as editor:
        editor.cluster.encoder.written_prompt = "a red circle, in oil"
        events = await editor.edited()
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
        events = await editor.edited()
    completed = events[-1]
    assert isinstance(completed, GenerationResult)
    both = ConditioningReuse(ConditioningPart.IMAGE, 4, 2)
    assert completed.conditioning_reuse == (prompt, both)


async def test_prompt_and_pictures_are_encoded_at_the_same_time() -> None:
    async with _editor() as editor:
        encoder, vae = editor.cluster.encoder, editor.cluster.vae
        encoder.waits = vae.waits = True
        task = asyncio.create_task(editor.edited())
        await encoder.reached.wait()
        await vae.reached.wait()
        assert (encoder.running, vae.running) == (1, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await editor.settle()
        assert editor.cluster.releases == [[editor.released]] * 3


@pytest.mark.parametrize(("failing", "waiting"), [("encoder", "vae"), ("vae", "encoder")])
async def test_a_stage_that_fails_stops_the_other_at_once(failing: str, waiting: str) -> None:
    async with _editor() as editor:
        editor.cluster.stages[waiting].waits = True
        editor.cluster.stages[failing].refuses = QueueFull("stage", 3, 2.0)
        with pytest.raises(TriptychError) as caught:
            await editor.edited()
        assert caught.value.reason == "QUEUE_FULL"
        assert editor.cluster.stages[waiting].running == 0
        await editor.settle()
        assert editor.cluster.releases == [[editor.released]] * 3
        assert editor.cluster.denoiser.requests == []


async def test_whoever_leaves_while_pictures_are_encoded_stops_both() -> None:
    async with _editor() as editor:
        editor.cluster.vae.waits = True
        events = editor.edit()
        async for event in events:
            if isinstance(event, StageCompleted):
                break
        await editor.cluster.vae.reached.wait()
        await events.aclose()
        await editor.settle()
        assert editor.cluster.releases == [[editor.released]] * 3


async def test_what_is_encoded_at_once_is_made_again_at_once_where_the_store_is_another() -> None:
    async with _editor() as editor:
        editor.cluster.vae.fails_once(TensorRefused("of another store"))
        editor.cluster.vae.may_go_on.clear()
        editing = asyncio.create_task(editor.edited())
        await editor.cluster.encoder.stopped.wait()
        editor.cluster.vae.may_go_on.set()
        await editing
        # The prompt's conditioning is where the VAE cannot read it.
        assert len(editor.cluster.encoder.requests) == 2


async def test_pictures_are_kept_until_their_job_has_ended_and_no_longer() -> None:
    async with _editor() as editor:
        editor.cluster.denoiser.may_go_on.clear()
        editing = asyncio.create_task(editor.edited())
        await editor.cluster.denoiser.reached.wait()
        keys = [
            ArtifactKey("default", ArtifactKind.UPLOAD, f"{editor.released[1]}.{number}")
            for number in range(2)
        ]
        assert [await editor.calls.whole(key) for key in keys] == list(IMAGES)
        editor.cluster.denoiser.may_go_on.set()
        await editing
        await editor.settle()
        for key in keys:
            with pytest.raises(ArtifactNotFound):
                await editor.calls.stat(key)
