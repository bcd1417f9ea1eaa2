"""Keeps a team of ranks alive, and rebuilds it when one dies or hangs. Holds no model."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from denoiser_service.rank.commands import (
    Abort,
    Command,
    Failed,
    Finished,
    Prepare,
    RankReady,
    Reply,
)
from denoiser_service.rank_group.generation import RankBounds, RankTeam
from denoiser_service.rank_group.port import RankSource, error_of
from denoiser_service.rank_group.reconcile import RanksDisagree, reconcile
from services.observability.logs import get_logger
from triptych.domain.errors import RanksLost
from triptych.domain.parallel import ONE_RANK, ParallelDegrees

_MAX_PAUSE_SECONDS = 30.0
_SETTLED_SECONDS = 60.0

_log = get_logger(__name__)


class ProcessRankGroup:
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
        self._team: RankTeam | None = None
        self._settled = False
        self._became_ready = asyncio.Event()
        self._closed = False
        self.ready: RankReady | None = None
        self.generation = 0

    async def run(self, on_change: Callable[[bool], Awaitable[None]]) -> None:
        """Keeps the ranks alive until it is cancelled; starts none once the group is closed.

        Args:
            on_change: told True when the ranks become ready and False when they are lost.

        Raises:
            ConfigurationError: a rank says it cannot start as it was told to.
        """
        failures = 0
        while not self._closed:
            self.generation += 1
            try:
                team = RankTeam(await self._source.gather(), self._bounds)
                ready = await team.ready()
                await self._check_store(team, ready)
            except RanksLost as error:
                failures += 1
                _log.warning("ranks did not start", cause=str(error), failures=failures)
            else:
                began = time.monotonic()
                await self._watch(team, ready, on_change)
                # Those that die as soon as they are ready are no better than those that do not
                # start.
                lasted = time.monotonic() - began >= _SETTLED_SECONDS
                failures = 0 if lasted or self._settled else failures + 1
            await asyncio.sleep(_pause_seconds(failures))
        await asyncio.Event().wait()

    async def wait_ready(self) -> RankReady:
        """Waits until the ranks hold their model."""
        while self.ready is None:
            await self._became_ready.wait()
        return self.ready

    async def execute(self, command: Command) -> Reply:
        """See RankGroup."""
        team = self._team
        if team is None:
            raise RanksLost("the ranks are being rebuilt; repeat the request")
        try:
            replies = await team.execute(command)
            reply = reconcile(command, replies)
            if isinstance(reply, Failed):
                if isinstance(command, Prepare):
                    await _withdraw(team, command, replies)
                raise error_of(reply)
        except RanksLost as error:
            await self._lose(team, str(error))
            raise
        except RanksDisagree as error:
            # A defect: whatever made one rank differ may have made them all wrong.
            _log.exception("ranks disagree", command=command.kind, request_id=command.request_id)
            await self._lose(team, str(error))
            raise RanksLost("the ranks disagreed; repeat the request") from error
        self._settled = self._settled or isinstance(reply, Finished)
        return reply

    async def close(self) -> None:
        """Ends the ranks, gently if they are idle."""
        self._closed = True
        await self._source.close()
        if self._team is not None:
            await self._team.stop()

    async def _check_store(self, team: RankTeam, ready: RankReady) -> None:
        """Lets ranks go that were told another store: they could not read a single request."""
        own = None if self._store is None else self._store()
        # Not for good: a server that was restarted is another store, and not all have noticed yet.
        if own not in (None, ready.tensor_store):
            await team.kill()
            raise RanksLost(
                f"the ranks' tensor store is {ready.tensor_store}, this denoiser's is {own};"
                " start both with the same --store"
            )

    async def _watch(
        self, team: RankTeam, ready: RankReady, on_change: Callable[[bool], Awaitable[None]]
    ) -> None:
        self._team, self.ready, self._settled = team, ready, False
        self._became_ready.set()
        _log.info(
            "ranks ready", ranks=self.degrees.ranks, pid=ready.pid, generation=self.generation
        )
        cause = "the service ends"
        try:
            await on_change(True)
            cause = await team.watch()
        finally:
            await self._lose(team, cause)
        if self._closed:
            _log.info("ranks ended", generation=self.generation)
        else:
            _log.warning("ranks lost", cause=team.cause, generation=self.generation)
        await on_change(False)

    async def _lose(self, team: RankTeam, cause: str) -> None:
        team.cause = team.cause or cause
        if self._team is team:
            self._team = self.ready = None
            self._became_ready.clear()
        await team.kill()


async def _withdraw(team: RankTeam, command: Prepare, replies: Sequence[Reply]) -> None:
    """Has a request forgotten by the ranks that took it in, where others failed to."""
    if not all(isinstance(each, Failed) for each in replies):
        # To all, as every command; those that do not hold it say so.
        await team.execute(Abort(request_id=command.request_id))


def _pause_seconds(failures: int) -> float:
    # The first rebuild is at once: requests are waiting for it.
    return 0.0 if failures < 2 else min(2.0 ** (failures - 2), _MAX_PAUSE_SECONDS)
