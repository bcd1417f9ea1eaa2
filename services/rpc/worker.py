"""One thread that does a stage's blocking work, so that the event loop never does."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from services.observability import tracing
from services.observability.logs import get_logger
from triptych.domain.deadline import Deadline
from triptych.domain.errors import QueueFull, StageUnavailable
from triptych.domain.model import Stage

T = TypeVar("T")

_log = get_logger(__name__)


def breaks_nothing(_: Exception) -> bool:
    """Of work that no error makes impossible from then on."""
    return False


class Timed(Generic[T]):
    """A result and how long its work waited for the thread."""

    def __init__(self, value: T, queue_seconds: float) -> None:
        self.value = value
        self.queue_seconds = queue_seconds


class StageWorker:
    """Runs work in the order it came, one piece at a time, with a bounded queue.

    Work that hangs, or whose error its device does not survive, breaks the worker: all who wait are
    told, nothing more is taken, and whoever runs the process ends it.

    Args:
        stage: for messages and the thread's name.
        max_queued: pieces that may wait; more are refused.
        set_up_thread: called on the thread before its first piece.
        command_seconds: how long one piece may run before it counts as hung.
        breaks: whether after an error of work none can succeed any more.
    """

    def __init__(
        self,
        stage: Stage,
        max_queued: int,
        set_up_thread: Callable[[], None],
        *,
        command_seconds: float,
        breaks: Callable[[Exception], bool] = breaks_nothing,
    ) -> None:
        self._stage = stage
        self._thread = ThreadPoolExecutor(1, stage, initializer=set_up_thread)
        self.max_queued = max_queued
        self.draining = False
        self._set_up_thread = set_up_thread
        self._command_seconds = command_seconds
        self._breaks = breaks
        self._admitted = 0
        # Smoothed seconds per piece, for honest retry times.
        self._run_seconds = 1.0
        self._watchdog: asyncio.TimerHandle | None = None
        self._cause: StageUnavailable | None = None
        self._broken = asyncio.Event()

    def beside(self, max_queued: int) -> "StageWorker":
        """Another thread for the same stage, within the same bounds."""
        return StageWorker(
            self._stage,
            max_queued,
            self._set_up_thread,
            command_seconds=self._command_seconds,
            breaks=self._breaks,
        )

    @property
    def running(self) -> int:
        """0 or 1."""
        return min(self._admitted, 1)

    @property
    def queued(self) -> int:
        """Pieces that wait."""
        return self._admitted - self.running

    async def run(
        self, work: Callable[[], T], *, deadline: Deadline, discard: Callable[[T], object]
    ) -> Timed[T]:
        """Runs blocking work on the thread.

        Args:
            work: what to run.
            deadline: work that could not begin before it is dropped.
            discard: undoes a result that came after its caller had left; blocking.

        Raises:
            StageUnavailable: the stage is draining, or broke.
            QueueFull: too many wait already.
            DeadlineExceeded: the deadline passed in the queue.
        """
        if self._broken.is_set():
            raise self._why()
        if self.draining:
            raise StageUnavailable(f"the {self._stage} is draining; repeat the request elsewhere")
        if self.queued >= self.max_queued:
            retry = self._run_seconds * (self.queued + 1)
            raise QueueFull(self._stage, self.max_queued, retry)
        # The caller's context goes along, so that what the work logs names its request.
        call = self._call(work, deadline, asyncio.get_running_loop())
        piece = self._thread.submit(copy_context().run, call)
        self._admitted += 1
        future = asyncio.wrap_future(piece)
        future.add_done_callback(self._done)
        breaking = asyncio.ensure_future(self._broken.wait())
        either: set[asyncio.Future[Any]] = {future, breaking}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            _undo(piece, discard)
            raise
        finally:
            breaking.cancel()
        if not self._broken.is_set() or (future.done() and future.exception() is None):
            return future.result()
        if not future.done():
            _undo(piece, discard)
        raise self._why()

    async def broken(self) -> StageUnavailable:
        """Why no work can succeed any more, as soon as that is so."""
        await self._broken.wait()
        return self._why()

    async def close(self) -> None:
        """Waits for the piece at hand, unless it may never end, and ends the thread."""
        self.draining = True
        waits = not self._broken.is_set()
        await asyncio.to_thread(self._thread.shutdown, wait=waits, cancel_futures=True)

    def _call(
        self, work: Callable[[], T], deadline: Deadline, loop: asyncio.AbstractEventLoop
    ) -> Callable[[], Timed[T]]:
        asked = time.monotonic()

        def call() -> Timed[T]:
            deadline.check(f"waiting for the {self._stage}")
            began = time.monotonic()
            loop.call_soon_threadsafe(self._begin)
            try:
                tracing.past("queue", began - asked)
                with tracing.span("run"):
                    value = work()
            except Exception as error:
                if self._breaks(error):
                    _log.exception("device failed")
                    said = f"the {self._stage}'s device failed; repeat the request"
                    loop.call_soon_threadsafe(self._break, StageUnavailable(said))
                raise
            finally:
                # A loop that has ended waits for nothing.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._end)
            self._run_seconds += 0.2 * (time.monotonic() - began - self._run_seconds)
            return Timed(value, began - asked)

        return call

    def _begin(self) -> None:
        cause = StageUnavailable(
            f"the {self._stage} hangs: its work took more than {self._command_seconds:g} s;"
            " repeat the request"
        )
        loop = asyncio.get_running_loop()
        self._watchdog = loop.call_later(self._command_seconds, self._break, cause)

    def _end(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _break(self, cause: StageUnavailable) -> None:
        if self._cause is None:
            _log.error("broken", cause=str(cause))
            self._cause = cause
            self.draining = True
            self._broken.set()

    def _why(self) -> StageUnavailable:
        assert self._cause is not None
        return self._cause

    def _done(self, future: "asyncio.Future[Timed[T]]") -> None:
        self._admitted -= 1
        if not future.cancelled():
            # Its caller may be gone, and nobody else is to be told.
            future.exception()


def _undo(piece: Future[Timed[T]], discard: Callable[[T], object]) -> None:
    """Takes the piece from the queue, or undoes its result on another thread than the loop's."""
    if piece.cancel():
        return
    if piece.done():
        asyncio.get_running_loop().run_in_executor(None, _discard_late, piece, discard)
    else:
        piece.add_done_callback(lambda late: _discard_late(late, discard))


def _discard_late(piece: Future[Timed[T]], discard: Callable[[T], object]) -> None:
    if piece.exception() is None:
        discard(piece.result().value)
