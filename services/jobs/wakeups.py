"""News from those who write to those who wait, within one process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Wakeups:
    """Wakes those who wait for a name. For one event loop.

    A wake-up says that it is worth looking again, no more: it may come without need.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def wake(self, name: str) -> None:
        """Wakes all who listen for a name."""
        for heard in self._waiting.get(name, ()):
            heard.set()

    def wake_all(self) -> None:
        """Wakes everybody, as after news may have been missed."""
        for name in self._waiting:
            self.wake(name)

    @contextmanager
    def listening(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set at every wake-up; whoever looked clears it before looking."""
        heard = asyncio.Event()
        self._waiting.setdefault(name, set()).add(heard)
        try:
            yield heard
        finally:
            self._waiting[name].discard(heard)
            if not self._waiting[name]:
                del self._waiting[name]


async def heard_within(heard: asyncio.Event, seconds: float) -> None:
    """Returns at the next wake-up, or after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await heard.wait()
    except TimeoutError:
        return
