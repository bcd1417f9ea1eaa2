import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from services.domain.job_event import JobEvent
from services.domain.stages import DrawPreviewRequest, PreviewLatents
from tests.unit.domain.examples import CAPABILITIES
from tests.unit.gateway.scripted_gateway import ScriptedGateway
from tests.unit.gateway.scripted_stages import PICTURE, PREVIEWS
from triptych.domain.errors import DeadlineExceeded, TensorNotFound, TriptychError
from triptych.domain.events import Preview, StepCompleted
from triptych.domain.generation import GenerationRequest
from triptych.domain.generation_result import GenerationResult

ASKED = GenerationRequest(prompt="a red circle", seed=7, preview_every_steps=1)
FIVE, SIX, SEVEN = (PreviewLatents(step, ref) for step, ref in PREVIEWS.items())


class Drawing(ScriptedGateway):
    """One whose VAE draws previews when the test says so."""

    def __init__(self) -> None:
        super().__init__(ASKED)
        self.cluster.limit(replace(CAPABILITIES, supports_previews=True))
        self.asked: asyncio.Queue[DrawPreviewRequest] = asyncio.Queue()
        self.may_draw = asyncio.Event()
        self.left = 0
        self.error: Exception | None = None
        self.cluster.vae.on_preview = self._draw

    async def _draw(self, request: DrawPreviewRequest) -> None:
        self.asked.put_nowait(request)
        try:
            await self.may_draw.wait()
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.left += 1
            raise


@asynccontextmanager
async def _drawing() -> AsyncIterator[Drawing]:
    drawing = Drawing()
    async with drawing.running():
        yield drawing
        await drawing.settle()
        assert drawing.cluster.releases == [[drawing.released]] * 3


async def _until_preview(events: AsyncGenerator[JobEvent, None]) -> Preview:
    async for event in events:
        if isinstance(event, Preview):
            return event
    raise AssertionError("none came")


async def test_a_preview_comes_as_soon_as_it_is_drawn_whatever_the_loop_does() -> None:
    async with _drawing() as drawing:
        drawing.may_draw.set()
        drawing.cluster.denoiser.previews = [FIVE]
        # The second step is never done while the preview is waited for.
        drawing.cluster.denoiser.may_go_on.clear()
        events = drawing.generate()
        assert await _until_preview(events) == Preview(
            5, PICTURE.data, PICTURE.width, PICTURE.height
        )
        request = await drawing.asked.get()
        assert (request.latents, request.request_id) == (FIVE.latents, drawing.released[1])
        assert request.parameters.preview_every_steps == 1
        drawing.cluster.denoiser.may_go_on.set()
        rest = [event async for event in events]
        assert isinstance(rest[-1], GenerationResult)


async def test_the_loop_and_the_result_wait_for_no_preview() -> None:
    async with _drawing() as drawing:
        drawing.cluster.denoiser.previews = [FIVE]
        events = await drawing.all_of()
        assert not any(isinstance(each, Preview) for each in events)
        assert isinstance(events[-1], GenerationResult)
        assert drawing.left == 1


async def test_the_newest_is_drawn_next_and_one_at_a_time() -> None:
    async with _drawing() as drawing:
        drawing.cluster.denoiser.previews = [FIVE, SIX, SEVEN]
        drawing.cluster.denoiser.may_go_on.clear()
        drawing.cluster.denoiser.may_show.clear()
        seen: list[int] = []

        async def read() -> None:
            async for event in drawing.generate():
                if isinstance(event, Preview):
                    seen.append(event.step)
                    if event.step == SEVEN.step:
                        drawing.cluster.denoiser.may_go_on.set()

        reading = asyncio.create_task(read())
        await drawing.asked.get()
        # The others come while the first one is being drawn.
        drawing.cluster.denoiser.may_show.set()
        await drawing.cluster.denoiser.reached.wait()
        assert drawing.asked.empty()
        drawing.may_draw.set()
        await reading
        assert seen == [FIVE.step, SEVEN.step]
        assert [each.latents for each in drawing.cluster.vae.preview_requests] == [
            FIVE.latents,
            SEVEN.latents,
        ]


async def test_one_that_is_drawn_late_still_comes_while_the_vae_decodes() -> None:
    async with _drawing() as drawing:
        drawing.cluster.denoiser.previews = [FIVE]
        drawing.cluster.vae.may_go_on.clear()
        events = drawing.generate()
        seen: list[JobEvent] = []
        drawn = asyncio.Event()

        async def read() -> None:
            async for event in events:
                seen.append(event)
                if event == Preview(5, PICTURE.data, PICTURE.width, PICTURE.height):
                    drawn.set()

        reading = asyncio.create_task(read())
        await drawing.cluster.vae.reached.wait()
        assert sum(isinstance(each, StepCompleted) for each in seen) == 2
        drawing.may_draw.set()
        await drawn.wait()
        drawing.cluster.vae.may_go_on.set()
        await reading


async def test_none_comes_after_the_result() -> None:
    async with _drawing() as drawing:
        drawing.cluster.denoiser.previews = [FIVE]
        drawing.cluster.vae.may_release.clear()
        reading = asyncio.create_task(drawing.all_of())
        await drawing.cluster.vae.release_asked.wait()
        # The job has ended, and its tensors are being released.
        assert drawing.left == 1
        drawing.may_draw.set()
        drawing.cluster.vae.may_release.set()
        assert isinstance((await reading)[-1], GenerationResult)


@pytest.mark.parametrize("error", [TensorNotFound("newer ones came"), RuntimeError("a bug")])
async def test_one_that_fails_is_dropped_and_the_next_one_drawn(error: Exception) -> None:
    async with _drawing() as drawing:
        drawing.error = error
        drawing.cluster.denoiser.previews = [FIVE, SIX]
        drawing.cluster.denoiser.may_show.clear()
        drawing.cluster.denoiser.may_go_on.clear()
        reading = asyncio.create_task(drawing.all_of())
        await drawing.asked.get()
        drawing.may_draw.set()
        drawing.cluster.denoiser.may_show.set()
        await drawing.asked.get()
        drawing.cluster.denoiser.may_go_on.set()
        events = await reading
        assert isinstance(events[-1], GenerationResult)
        assert not any(isinstance(each, Preview) for each in events)


async def test_whoever_leaves_stops_the_drawing_too() -> None:
    async with _drawing() as drawing:
        drawing.cluster.denoiser.previews = [FIVE]
        drawing.cluster.denoiser.waits = True
        reading = asyncio.create_task(drawing.all_of())
        await drawing.asked.get()
        await drawing.cluster.denoiser.reached.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await drawing.settle()
        assert drawing.left == 1
        assert drawing.cluster.denoiser.running == 0


async def test_what_the_denoiser_fails_at_passes_while_a_preview_is_drawn() -> None:
    async with _drawing() as drawing:
        drawing.cluster.denoiser.previews = [FIVE]
        drawing.cluster.denoiser.fails = DeadlineExceeded("it took too long")
        drawing.cluster.denoiser.may_go_on.clear()
        reading = asyncio.create_task(drawing.all_of())
        await drawing.asked.get()
        drawing.cluster.denoiser.may_go_on.set()
        with pytest.raises(TriptychError, match="too long"):
            await reading
        assert drawing.left == 1


async def test_a_reader_that_stops_reading_delays_nothing_but_itself() -> None:
    async with _drawing() as drawing:
        drawing.may_draw.set()
        drawing.cluster.denoiser.previews = [FIVE]
        events = drawing.generate()
        async for event in events:
            if isinstance(event, StepCompleted):
                break
        # The job goes on all the same, as far as its reader lets it end, and leaving is clean.
        await drawing.cluster.denoiser.stopped.wait()
        await events.aclose()
        await drawing.settle()
        assert drawing.cluster.denoiser.running == 0
