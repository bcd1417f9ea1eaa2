"""One thread that does a stage's blocking work, so that the event loop never does."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Generic, TypeVar

from services.observability import tracing
from triptych.domain.deadline import Deadline
from triptych.domain.errors import QueueFull, StageUnavailable
from triptych.domain.model import Stage

T = TypeVar("T")


class Timed(Generic[T]):
    """A result and how long its work waited for the thread."""

    def __init__(self, value: T, queue_seconds: float) -> None:
        self.value = value
        self.queue_seconds = queue_seconds


class StageWorker:
    """Runs work in the order it came, one piece at a time, with a bounded queue.

    Args:
        stage: for messages and the thread's name.
        max_queued: pieces that may wait; more are refused.
        set_up_thread: called on the thread before its first piece.
    """

    def __init__(self, stage: Stage, max_queued: int, set_up_thread: Callable[[], None]) -> None:
        self._stage = stage
        self._thread = ThreadPoolExecutor(1, stage, initializer=set_up_thread)
        self.max_queued = max_queued
        self.draining = False
        self._admitted = 0
        # Smoothed seconds per piece, for honest retry times.
        self._run_seconds = 1.0

    @property
    def running(self) -> int:
        """0 or 1."""
        return min(self._admitted, 1)

    @property
    def queued(self) -> int:
        """Pieces that wait."""
        return self._admitted - self.running

    async def run(
        self, work: Callable[[], T], *, deadline: Deadline, discard: Callable[[T], None]
    ) -> Timed[T]:
        """Runs blocking work on the thread.

        Args:
            work: what to run.
            deadline: work that could not begin before it is dropped.
            discard: undoes a result that came after its caller had left; blocking.

        Raises:
            StageUnavailable: the stage is draining.
            QueueFull: too many wait already.
            DeadlineExceeded: the deadline passed in the queue.
        """
        if self.draining:
            raise StageUnavailable(f"the {self._stage} is draining; repeat the request elsewhere")
        if self.queued >= self.max_queued:
            retry = self._run_seconds * (self.queued + 1)
            raise QueueFull(self._stage, self.max_queued, retry)
        # The caller's context goes along, so that what the work logs names its request.
        piece = self._thread.submit(copy_context().run, self._call(work, deadline))
        self._admitted += 1
        future = asyncio.wrap_future(piece)
        future.add_done_callback(self._done)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not piece.cancel():
                # It runs already; what comes of it is undone on the thread that ends it.
                piece.add_done_callback(lambda late: _discard_late(late, discard))
            raise

    async def close(self) -> None:
        """Waits for the piece at hand and ends the thread."""
        self.draining = True
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    def _call(self, work: Callable[[], T], deadline: Deadline) -> Callable[[], Timed[T]]:
        asked = time.monotonic()

        def call() -> Timed[T]:
            deadline.check(f"waiting for the {self._stage}")
            began = time.monotonic()
            tracing.past("queue", began - asked)
            with tracing.span("run"):
                value = work()
            self._run_seconds += 0.2 * (time.monotonic() - began - self._run_seconds)
            return Timed(value, began - asked)

        return call

    def _done(self, future: "asyncio.Future[Timed[T]]") -> None:
        self._admitted -= 1


def _discard_late(piece: Future[Timed[T]], discard: Callable[[T], None]) -> None:
    if piece.exception() is None:
        discard(piece.result().value)
