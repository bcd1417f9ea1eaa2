"""The ranks of one generation: they start together, work in step, and end together."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from denoiser_service.rank.commands import Command, Failed, RankReady, Reply, Step
from denoiser_service.rank_group.port import Rank
from denoiser_service.rank_group.reconcile import RanksDisagree, check_alike
from services.rpc.process import EXIT_CONFIGURATION
from triptych.domain.errors import ConfigurationError, RanksLost

_BEATS: Final = 8
"""How often a rank says that it is alive in the time after which its silence is a hang."""


@dataclass(frozen=True, slots=True)
class RankBounds:
    """How long ranks may take, in seconds.

    Attributes:
        start: to load their model.
        command: for one command, while they show signs of life.
        silence: without a sign of life; also what the others may take once one has failed at a
            step, since what they wait for in it may not come.
    """

    start: float
    command: float
    silence: float

    @property
    def beat(self) -> float:
        """How often a rank says that it is alive."""
        return self.silence / _BEATS


class _RankDied(ConnectionError):
    def __init__(self, rank: Rank) -> None:
        super().__init__(f"rank {rank.number} died")
        self.rank = rank


class RankTeam:
    """Ranks that every command goes to, in one order.

    Args:
        ranks: by number.
        bounds: how long they may take.

    Attributes:
        cause: why they were given up; None while they were not.
    """

    def __init__(self, ranks: Sequence[Rank], bounds: RankBounds) -> None:
        self._ranks = ranks
        self._bounds = bounds
        self._hurried = False
        self.cause: str | None = None

    async def ready(self) -> RankReady:
        """Waits until every rank holds its model, and ends them all if one does not get there.

        Raises:
            RanksLost: one died, said something else, or took too long.
            ConfigurationError: one cannot start as it was told to, or holds something else.
        """
        try:
            async with asyncio.timeout(self._bounds.start):
                replies = await self._received()
            return _alike(replies)
        except TimeoutError as error:
            await self.kill()
            raise RanksLost(f"not every rank was ready within {self._bounds.start:g} s") from error
        except _RankDied as error:
            # The channel ends just before the process does: its exit code is about to come.
            await error.rank.stop()
            await self.kill()
            code = error.rank.exit_code
            if code == EXIT_CONFIGURATION:
                raise ConfigurationError("the rank cannot start; it said why above") from error
            raise RanksLost(f"{error} with {code} while starting") from error
        except BaseException:
            # Cancelled or failed: nobody else would end them.
            await self.kill()
            raise

    async def execute(self, command: Command) -> Sequence[Reply]:
        """Has every rank execute a command; their replies, by number.

        Raises:
            RanksLost: one died, hung, or cannot go on; the others are of no use any more.
            TriptychError: the command is too long; nothing was sent.
        """
        try:
            async with asyncio.timeout(self._bounds.command) as bound:
                self._hurried = False
                await asyncio.gather(*(each.link.send(command) for each in self._ranks))
                return await self._received(command, bound)
        except TimeoutError as error:
            late = (
                "a rank failed at a step in which others wait for it"
                if self._hurried
                else f"a rank did not answer within {self._bounds.command:g} s"
            )
            raise RanksLost(f"{late}; repeat the request") from error
        except ConnectionError as error:
            cause = self.cause or "a rank died"
            raise RanksLost(f"{cause}; repeat the request") from error

    async def watch(self) -> str:
        """Waits until a rank dies or falls silent; returns which."""
        ends = [asyncio.create_task(each.ended()) for each in self._ranks]
        ends.append(asyncio.create_task(self._silent()))
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ends:
                each.cancel()
        return done.pop().result()

    async def stop(self) -> None:
        """Lets the ranks end by themselves, if they are idle."""
        await asyncio.gather(*(each.stop() for each in self._ranks))

    async def kill(self) -> None:
        """Kills the ranks, whatever they are doing, and collects them."""
        await asyncio.gather(*(each.kill() for each in self._ranks))

    async def _received(
        self, command: Command | None = None, bound: asyncio.Timeout | None = None
    ) -> Sequence[Reply]:
        receiving = [asyncio.create_task(_receive(each)) for each in self._ranks]
        try:
            for each in asyncio.as_completed(receiving):
                reply = await each
                if isinstance(reply, Failed) and reply.fatal:
                    raise RanksLost(f"{reply.message}; repeat the request")
                if isinstance(reply, Failed) and isinstance(command, Step) and bound:
                    self._hurry(bound)
        finally:
            for each in receiving:
                each.cancel()
            await asyncio.gather(*receiving, return_exceptions=True)
        return [each.result() for each in receiving]

    def _hurry(self, bound: asyncio.Timeout) -> None:
        self._hurried = True
        when = bound.when()
        soon = asyncio.get_running_loop().time() + self._bounds.silence
        if when is None or soon < when:
            bound.reschedule(soon)

    async def _silent(self) -> str:
        while True:
            await asyncio.sleep(self._bounds.beat)
            for each in self._ranks:
                if each.link.tick() > _BEATS:
                    return f"rank {each.number} was silent for {self._bounds.silence:g} s"


async def _receive(rank: Rank) -> Reply:
    try:
        return await rank.link.receive()
    except ConnectionError as error:
        raise _RankDied(rank) from error


def _alike(replies: Sequence[Reply]) -> RankReady:
    ready = replies[0]
    if not all(isinstance(each, RankReady) for each in replies):
        raise RanksLost(f"a rank said {type(ready).__name__} before it was ready")
    try:
        check_alike(replies)
    except RanksDisagree as error:
        raise ConfigurationError(f"the ranks do not hold the same: {error}") from error
    assert isinstance(ready, RankReady)
    return ready
