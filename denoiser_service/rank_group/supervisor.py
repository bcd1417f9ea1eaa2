"""Keeps ranks at work: replaces them all when one dies, hangs or disagrees. Holds no model."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from denoiser_service.rank_group.generation import RankBounds, RankGeneration
from denoiser_service.rank_group.port import RankSource
from services.observability.logs import get_logger
from triptych.domain.errors import ConfigurationError, RanksLost
from triptych.domain.parallel import ONE_RANK, ParallelDegrees

_MAX_PAUSE_SECONDS: Final = 30.0
_SETTLED_SECONDS: Final = 60.0
_MAX_STUCK: Final = 3
"""Generations that may leave a process which cannot be killed, before this process ends."""
_MAX_KILLED: Final = 3
"""Generations in a row that the system may kill before the first is ever ready."""

_log = get_logger(__name__)


class RankSupervisor:
    """Ranks in processes of their own, here or elsewhere, behind the RankGroup port.

    Args:
        source: where the ranks of each generation come from.
        degrees: how many ranks there are, and how they share steps.
        bounds: how long they may take before they count as hung.
        store: identity of the tensor store that they must have opened; None for any.
    """

    def __init__(
        self,
        source: RankSource,
        *,
        bounds: RankBounds,
        degrees: ParallelDegrees = ONE_RANK,
        store: Callable[[], str] | None = None,
    ) -> None:
        self._source = source
        self.degrees = degrees
        self._bounds = bounds
        self._store = store
        self._ranks: RankGeneration | None = None
        self._became_ready = asyncio.Event()
        self._closed = False
        self._stuck = 0
        self._killed = 0
        self._was_ready = False
        self.generation = 0

    @property
    def current(self) -> RankGeneration | None:
        """See RankGroup."""
        ranks = self._ranks
        return None if ranks is None or ranks.cause is not None else ranks

    async def run(self, on_change: Callable[[bool], Awaitable[None]]) -> None:
        """Keeps ranks at work until it is cancelled; starts none once the group is closed.

        Args:
            on_change: told True when the ranks become ready and False when they are lost.

        Raises:
            ConfigurationError: a rank says it cannot start as it was told to, or the system kills
                the first ranks again and again.
            RanksLost: too many ranks could not be killed; only another process can go on.
        """
        failures = 0
        while not self._closed:
            self.generation += 1
            try:
                ranks = await self._started()
            except (RanksLost, OSError) as error:
                # The machine may lack processes, memory or descriptors now and have them later.
                failures += 1
                _log.warning("ranks did not start", cause=str(error), failures=failures)
            else:
                began = time.monotonic()
                await self._watch(ranks, on_change)
                # Those that die as soon as they are ready are no better than those that do not
                # start.
                lasted = time.monotonic() - began >= _SETTLED_SECONDS
                failures = 0 if lasted or ranks.proven else failures + 1
            self._check_stuck()
            self._check_killed()
            await asyncio.sleep(_pause_seconds(failures))
        await asyncio.Event().wait()

    async def wait_ready(self) -> None:
        """See RankGroup."""
        while self.current is None:
            self._became_ready.clear()
            await self._became_ready.wait()

    async def close(self) -> None:
        """Ends the ranks, gently if they are idle."""
        self._closed = True
        await self._source.close()
        if self._ranks is not None:
            # Those that were given up a moment ago among them: nothing of them is left behind.
            await self._ranks.stop()

    async def _started(self) -> RankGeneration:
        ranks = RankGeneration(await self._source.gather(), self._bounds)
        try:
            await ranks.begin()
            self._check_store(ranks)
        except BaseException:
            self._killed = self._killed + 1 if ranks.killed else 0
            # Cancelled or failed: nobody else would end them.
            await self._end(ranks)
            raise
        return ranks

    def _check_store(self, ranks: RankGeneration) -> None:
        """Lets ranks go that were told another store: they could not read a single request."""
        own = None if self._store is None else self._store()
        # Not for good: a server that was restarted is another store, and not all have noticed yet.
        if own not in (None, ranks.ready.tensor_store):
            raise RanksLost(
                f"the ranks' tensor store is {ranks.ready.tensor_store}, this denoiser's is {own};"
                " start both with the same --store"
            )

    async def _watch(
        self, ranks: RankGeneration, on_change: Callable[[bool], Awaitable[None]]
    ) -> None:
        self._ranks = ranks
        self._was_ready = True
        self._became_ready.set()
        _log.info(
            "ranks ready", ranks=self.degrees.ranks, pid=ranks.ready.pid, generation=self.generation
        )
        try:
            await on_change(True)
            ranks.give_up(await ranks.watch())
            if self._closed:
                _log.info("ranks ended", generation=self.generation)
            else:
                _log.warning("ranks lost", cause=ranks.cause, generation=self.generation)
            # Said before they are killed, which may take its time.
            await on_change(False)
        finally:
            ranks.give_up("the service ends")
            await self._end(ranks)
            self._ranks = None

    async def _end(self, ranks: RankGeneration) -> None:
        """Kills what is left of the ranks."""
        if stuck := await ranks.kill():
            self._stuck += 1
            _log.error("ranks cannot be killed", ranks=stuck, generations=self._stuck)

    def _check_stuck(self) -> None:
        if self._stuck >= _MAX_STUCK:
            raise RanksLost(
                f"ranks of {self._stuck} generations could not be killed, as when a device's driver"
                " hangs; only another process, perhaps on another host, can go on"
            )

    def _check_killed(self) -> None:
        # Ranks that were ready once fit: what kills them since may pass.
        if self._killed >= _MAX_KILLED and not self._was_ready:
            raise ConfigurationError(
                f"ranks were killed by SIGKILL while they loaded the model, {self._killed} times in"
                " a row; whom the system kills then has most often run out of memory (its log,"
                " dmesg, says so): use a smaller --dtype, a smaller model, or a machine with more"
            )


def _pause_seconds(failures: int) -> float:
    # The first rebuild is at once: requests are waiting for it.
    return 0.0 if failures < 2 else min(2.0 ** (failures - 2), _MAX_PAUSE_SECONDS)
