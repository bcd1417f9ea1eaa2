"""Pictures of what a job is heading for, drawn beside its stages."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from services.domain.job_event import JobEvent
from services.domain.stages import PreviewLatents, PreviewPicture
from services.domain.tensor_ref import TensorRef
from services.observability.logs import get_logger
from triptych.domain.errors import TriptychError
from triptych.domain.events import Preview

_log = get_logger(__name__)


class Previews:
    """Draws one at a time, the newest next; nothing waits for them, and their failures end here.

    Args:
        draw: has the latents of a preview drawn, which are those of one of the results.
    """

    def __init__(self, draw: Callable[[TensorRef, int], Awaitable[PreviewPicture]]) -> None:
        self._draw = draw
        self._newest: dict[int, PreviewLatents] = {}
        self._offered = asyncio.Event()

    def offer(self, latents: PreviewLatents, image_index: int = 0) -> None:
        """Has them drawn soon, unless newer ones of the same result come first."""
        self._newest[image_index] = latents
        self._offered.set()

    async def among(self, events: AsyncGenerator[JobEvent, None]) -> AsyncGenerator[JobEvent, None]:
        """Yields the events, and among them each preview as soon as it is drawn.

        What is not drawn when the events end is given up.
        """
        following: asyncio.Task[JobEvent | None] | None = None
        drawing = asyncio.create_task(self._next())
        try:
            while True:
                following = following or asyncio.create_task(anext(events, None))
                await asyncio.wait((following, drawing), return_when=asyncio.FIRST_COMPLETED)
                if drawing.done():
                    preview = drawing.result()
                    drawing = asyncio.create_task(self._next())
                    yield preview
                if following.done():
                    event = following.result()
                    following = None
                    if event is None:
                        return
                    yield event
        finally:
            left = (drawing,) if following is None else (drawing, following)
            for each in left:
                each.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _next(self) -> Preview:
        while True:
            await self._offered.wait()
            index = next(iter(self._newest))
            latents = self._newest.pop(index)
            if not self._newest:
                self._offered.clear()
            try:
                drawn = await self._draw(latents.latents, index)
                return Preview(latents.step, drawn.data, drawn.width, drawn.height, index)
            except TriptychError as error:
                _log.warning("preview dropped", step=latents.step, cause=str(error))
            # A defect in something that nobody needs must not cost the picture.
            except Exception:  # noqa: BLE001 - what it is cannot be known beforehand
                _log.exception("preview dropped", step=latents.step)
