"""Pictures of what a job is heading for, drawn beside its stages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

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
        tell: takes each preview as soon as it is drawn.
    """

    def __init__(
        self,
        draw: Callable[[TensorRef, int], Awaitable[PreviewPicture]],
        tell: Callable[[Preview], None],
    ) -> None:
        self._draw = draw
        self._tell = tell
        self._newest: dict[int, PreviewLatents] = {}
        self._offered = asyncio.Event()

    def offer(self, latents: PreviewLatents, image_index: int = 0) -> None:
        """Has them drawn soon, unless newer ones of the same result come first."""
        self._newest[image_index] = latents
        self._offered.set()

    @asynccontextmanager
    async def drawing(self) -> AsyncIterator[None]:
        """Draws what is offered inside; what is not drawn when it is left is given up."""
        task = asyncio.create_task(self._draw_offered())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _draw_offered(self) -> None:
        while True:
            await self._offered.wait()
            index = next(iter(self._newest))
            latents = self._newest.pop(index)
            if not self._newest:
                self._offered.clear()
            try:
                drawn = await self._draw(latents.latents, index)
                self._tell(Preview(latents.step, drawn.data, drawn.width, drawn.height, index))
            except TriptychError as error:
                _log.warning("preview dropped", step=latents.step, cause=str(error))
            # A defect in something that nobody needs must not cost the picture.
            except Exception:  # noqa: BLE001 - what it is cannot be known beforehand
                _log.exception("preview dropped", step=latents.step)
