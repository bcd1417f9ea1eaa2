"""A tensor store's blocking calls, on threads that nothing else waits for."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Final, TypeVar

from services.domain.store_control import StoreControl, StoreStats, SweepReport
from services.domain.tensor_ref import TensorRef
from triptych.domain.errors import Unavailable

T = TypeVar("T")

_THREADS: Final = 4
_MAX_CALLS: Final = 1024
# As long as callers wait for a stage's answer.
_SECONDS: Final = 30.0


class StoreCalls:
    """Bounded in number and time: a store that hangs costs its own callers and nobody else.

    Args:
        store: whose calls they are.
        seconds: how long one call is waited for; its thread may take longer.
        threads: calls at once, beside one sweep.
        max_calls: calls at once and in the queue; more are refused.

    Attributes:
        store: for what does not block, and for threads that may wait.
    """

    def __init__(
        self,
        store: StoreControl,
        *,
        seconds: float = _SECONDS,
        threads: int = _THREADS,
        max_calls: int = _MAX_CALLS,
    ) -> None:
        self.store = store
        self._calls = _Lane("store calls", threads, max_calls, seconds)
        # Apart: one sweep after another that hangs would take all the threads.
        self._sweeps = _Lane("store sweep", 1, 2, seconds)

    async def release(self, ref: TensorRef) -> bool:
        """See StoreControl; raises Unavailable as `release_request` does."""
        return await self._calls.run(lambda: self.store.release(ref))

    async def release_request(self, tenant: str, request_id: str) -> int:
        """See StoreControl.

        Raises:
            Unavailable: it took too long, or too many calls wait; what is stored will expire.
        """
        return await self._calls.run(lambda: self.store.release_request(tenant, request_id))

    async def stats(self) -> StoreStats:
        """See StoreControl; raises Unavailable as `release_request` does."""
        return await self._calls.run(self.store.stats)

    async def sweep(self) -> SweepReport:
        """See StoreControl; raises Unavailable as `release_request` does."""
        return await self._sweeps.run(self.store.sweep)

    def close(self) -> None:
        """Ends the threads, once their calls have ended."""
        self._calls.close()
        self._sweeps.close()


class _Lane:
    """Threads and the calls that they make."""

    def __init__(self, name: str, threads: int, max_calls: int, seconds: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._room = BoundedSemaphore(max_calls)
        self._seconds = seconds

    async def run(self, call: Callable[[], T]) -> T:
        if not self._room.acquire(blocking=False):
            raise Unavailable("tensor store: too many calls wait for its answer")
        made = self._executor.submit(call)
        # When the call has ended, not when it is given up: until then it holds its thread.
        made.add_done_callback(lambda _: self._room.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(made), self._seconds)
        except TimeoutError as error:
            raise Unavailable(f"tensor store: no answer within {self._seconds:g} s") from error

    def close(self) -> None:
        self._executor.shutdown(wait=False)
