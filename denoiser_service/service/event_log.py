"""What happened to a request in the step loop, in order."""

import asyncio
from collections.abc import AsyncGenerator

from services.domain.stages import Denoised, DenoiseEvent
from triptych.domain.errors import TriptychError


class EventLog:
    """Written by the step loop; read from any place in it, by any number of readers.

    Attributes:
        events: so far.
        error: that ended the request; None while it runs, and of one that was denoised.
    """

    def __init__(self) -> None:
        self.events: list[DenoiseEvent] = []
        self.error: TriptychError | None = None
        self._news = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.succeeded or self.error is not None

    @property
    def succeeded(self) -> bool:
        """Whether its latents are there."""
        return bool(self.events) and isinstance(self.events[-1], Denoised)

    def append(self, event: DenoiseEvent) -> None:
        """Adds an event; Denoised is the last."""
        assert not self.ended, event
        self.events.append(event)
        self._announce()

    def fail(self, error: TriptychError) -> None:
        """Ends the request with an error."""
        assert not self.ended, error
        self.error = error
        self._announce()

    async def read(self, after: int = 0) -> AsyncGenerator[DenoiseEvent, None]:
        """Yields every event but the first `after`, as they come, until the request has ended.

        Raises:
            TriptychError: what ended it.
        """
        position = after
        while True:
            news = self._news
            while position < len(self.events):
                position += 1
                yield self.events[position - 1]
            if self.error is not None:
                raise self.error
            if self.ended:
                return
            await news.wait()

    def _announce(self) -> None:
        # One for each change, so that no reader can miss one.
        news, self._news = self._news, asyncio.Event()
        news.set()
