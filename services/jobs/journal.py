"""What a worker writes of the job that it has claimed, without waiting for the ledger."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Self

from services.jobs.entry import Advanced, Ended, Entry, GivenBack, TaskFailed
from services.jobs.ledger import Claim, JobLedger
from services.jobs.record import OutputSlot
from services.observability.logs import get_logger
from triptych.domain.errors import Cancelled, ClaimLost, LedgerFull, LedgerUnavailable
from triptych.domain.job import JobState
from triptych.domain.stage_timing import StageTask

MAX_BYTES: Final = 1 << 20
PATIENCE_SECONDS: Final = 60.0
_RENEWALS_PER_LEASE: Final = 3
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 1.0

_log = get_logger(__name__)


class Journal:
    """Writes to a job in the order in which it is told, many events at once, and keeps its lease.

    A ledger that is slow, or away for up to `patience_seconds`, holds up nobody but `flush`,
    `give_back` and `finish`, and `room` once there is none. What was noted is written when the
    ledger is there again. That the lease may have ended meanwhile does no harm: whoever claims the
    job then has a later token, before which ledger and stages refuse this one.

    Used as `async with Journal(...) as journal`; what is not flushed at the end is dropped. For one
    event loop, by whose clock it goes.

    Args:
        ledger: that gave the claim.
        claim: whose writes they are.
        lease_seconds: of the claim.
        patience_seconds: how long the ledger may not answer before the claim counts as lost; at
            least a lease.
        max_bytes: what may be noted and not written before `room` waits.

    Attributes:
        lost: done as soon as the claim is known to be lost, with ClaimLost or Cancelled as its
            result (it is not raised). Not once `finish` or `give_back` was called, which tell.
    """

    def __init__(
        self,
        ledger: JobLedger,
        claim: Claim,
        lease_seconds: float,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._ledger = ledger
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._patience_seconds = max(patience_seconds, lease_seconds)
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Exception] = self._loop.create_future()
        self._waiting: deque[Entry] = deque()
        # Of what waits, and of what is being written.
        self._size_bytes = 0
        self._is_writing = self._is_ending = False
        self._noted, self._written = asyncio.Event(), asyncio.Event()
        self._answered = self._loop.time()
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewals: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Begins to write, to renew and to listen."""
        for work in (self._write(), self._renew(), self._listen()):
            self._start(work)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends all of that."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def record(self, event: bytes, completed_steps: int | None = None) -> None:
        """Notes an event, and never waits; see `room`. Nothing is noted once the claim is lost.

        Args:
            event: serialized.
            completed_steps: of all results together, so far.
        """
        self._note(Entry([event], completed_steps))

    async def room(self) -> None:
        """Waits until what is noted and not written takes less than `max_bytes`.

        Raises:
            ClaimLost, Cancelled: see `lost`.
        """
        await self._until(lambda: self._size_bytes < self._max_bytes)

    async def advance(self, slot: OutputSlot, output: bytes, events: Sequence[bytes] = ()) -> None:
        """Notes a stage's output, which is written together with its events; waits for `room`.

        Raises:
            ClaimLost, Cancelled: see `lost`.
        """
        await self.room()
        self._note(Entry(list(events), change=Advanced(slot, output)))

    async def count_failure(self, task: StageTask) -> None:
        """Notes that a task failed once more; waits for `room`.

        Raises:
            ClaimLost, Cancelled: see `lost`.
        """
        await self.room()
        self._note(Entry(change=TaskFailed(task)))

    async def flush(self) -> None:
        """Waits until all that is noted has been written.

        Raises:
            ClaimLost, Cancelled: see `lost`.
        """
        await self._until(lambda: not self._waiting and not self._is_writing)

    async def finish(self, state: JobState, outcome: bytes, events: Sequence[bytes] = ()) -> None:
        """Writes all that is noted, then ends the job; nothing may be noted after it.

        Args:
            state: SUCCEEDED or FAILED.
            outcome: the result or the failure, serialized.
            events: the last ones.

        Raises:
            ClaimLost, Cancelled: it was not ended by this.
        """
        await self._end(Entry(list(events), change=Ended(state, outcome)))

    async def give_back(self, after_seconds: float = 0.0) -> None:
        """Writes all that is noted, then queues the job again; nothing may be noted after it.

        Args:
            after_seconds: not to be claimed sooner.

        Raises:
            ClaimLost, Cancelled: it was not given back by this.
        """
        await self._end(Entry(change=GivenBack(after_seconds)))

    async def _end(self, entry: Entry) -> None:
        self._note(entry)
        # From now on a renewal may be refused because of what is written here.
        self._is_ending = True
        await self.flush()

    async def _until(self, reached: Callable[[], bool]) -> None:
        while True:
            if self.lost.done():
                raise self.lost.result()
            if reached():
                return
            self._written.clear()
            await self._written.wait()

    def _note(self, entry: Entry) -> None:
        if self.lost.done():
            return
        self._size_bytes += entry.size_bytes
        if not self._waiting or not self._waiting[-1].take(entry):
            self._waiting.append(entry)
        self._noted.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._noted.wait()
                self._noted.clear()
                while self._waiting:
                    await self._write_next(self._waiting.popleft())
        except (ClaimLost, Cancelled) as error:
            self._lose(error)

    async def _write_next(self, entry: Entry) -> None:
        self._is_writing = True
        await self._answer(lambda: entry.write(self._ledger, self._claim))
        self._is_writing = False
        self._size_bytes -= entry.size_bytes
        self._written.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / _RENEWALS_PER_LEASE)
            if self._loop.time() - self._answered > self._patience_seconds:
                self._lose(ClaimLost(f"the ledger did not answer for {self._patience_seconds:g} s"))
            elif len(self._renewals) < _RENEWALS_PER_LEASE:
                # Not after the answer to the last one, for which a slow ledger may take too long.
                renewal = self._start(self._renew_once())
                self._renewals.add(renewal)
                renewal.add_done_callback(self._renewals.discard)

    async def _renew_once(self) -> None:
        await self._heard(lambda: self._ledger.renew(self._claim, self._lease_seconds))

    async def _listen(self) -> None:
        await self._heard(lambda: self._ledger.wait_lost(self._claim))

    async def _heard(self, asked: Callable[[], Awaitable[object]]) -> None:
        try:
            await self._answer(asked)
        except (ClaimLost, Cancelled) as error:
            # While the end is written, the answer to that is the one that counts.
            if not self._is_ending:
                self._lose(error)

    async def _answer(self, asked: Callable[[], Awaitable[object]]) -> None:
        """Asks again and again until the ledger answers."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await asked()
            except (LedgerUnavailable, LedgerFull) as error:
                if pause == _FIRST_PAUSE_SECONDS:
                    _log.warning("the jobs' ledger does not answer", cause=str(error))
            else:
                self._answered = self._loop.time()
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _lose(self, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
        self._written.set()
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            # None that is expected: whoever works on the job must not go on unheard.
            self._lose(error)
