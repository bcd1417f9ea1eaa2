"""A bound on bytes that are held at once."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager

from triptych.domain.deadline import Deadline
from triptych.domain.errors import DeadlineExceeded, ResourceExhausted


class ByteRoom:
    """Room for bytes. For one event loop.

    Args:
        name: what bounds it, for messages.
        limit_bytes: how much there is; what is larger gets all of it, alone.
    """

    def __init__(self, name: str, limit_bytes: int) -> None:
        self._name = name
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        """Takes room for as long as the context lasts.

        Raises:
            ResourceExhausted: there is none now.
        """
        if not self._fits(size_bytes):
            raise ResourceExhausted(
                f"{self._name} is {self._limit_bytes} bytes and used up by requests at work;"
                " repeat the request later, or upload its pictures first"
            )
        self._take(size_bytes)
        try:
            yield
        finally:
            self._give_back(size_bytes)

    @asynccontextmanager
    async def waited_for(self, size_bytes: int, deadline: Deadline) -> AsyncGenerator[None, None]:
        """Takes room for as long as the context lasts; who came first gets it first.

        Raises:
            DeadlineExceeded: there was none in time.
        """
        try:
            async with asyncio.timeout(deadline.remaining_seconds()), self._turn:
                while not self._fits(size_bytes):
                    self._left.clear()
                    await self._left.wait()
                self._take(size_bytes)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the deadline passed while {self._name} ({self._limit_bytes} bytes) was used up"
            ) from error
        try:
            yield
        finally:
            self._give_back(size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        return self._taken_bytes == 0 or self._taken_bytes + size_bytes <= self._limit_bytes

    def _take(self, size_bytes: int) -> None:
        self._taken_bytes += size_bytes

    def _give_back(self, size_bytes: int) -> None:
        self._taken_bytes -= size_bytes
        self._left.set()
