"""The ranks of one generation: they start together, work in step, and end together."""

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from denoiser_service.rank.channel import encode_frame
from denoiser_service.rank.commands import (
    Abort,
    Command,
    Failed,
    Finished,
    Prepare,
    RankReady,
    Reply,
    Step,
)
from denoiser_service.rank_group.port import Rank
from denoiser_service.rank_group.reconcile import RanksDisagree, check_alike, reconcile
from services.observability.logs import get_logger
from services.rpc.process import EXIT_CONFIGURATION
from triptych.domain.errors import ConfigurationError, RanksLost

_BEATS: Final = 8
"""How often a rank says that it is alive in the time after which its silence is a hang."""

_log = get_logger(__name__)


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


class RankGeneration:
    """Ranks that every command goes to, in one order. See port.Ranks.

    Args:
        ranks: by number.
        bounds: how long they may take.

    Attributes:
        cause: why they were given up; None while they were not.
        killed: whether the system killed one before they were ready.
        proven: whether they have finished a request.
    """

    def __init__(self, ranks: Sequence[Rank], bounds: RankBounds) -> None:
        self._ranks = ranks
        self._bounds = bounds
        self._hurried = False
        self._ready: RankReady | None = None
        self._given_up = asyncio.Event()
        self.cause: str | None = None
        self.killed = False
        self.proven = False

    @property
    def ready(self) -> RankReady:
        """What they said when they were ready."""
        assert self._ready is not None
        return self._ready

    async def begin(self) -> None:
        """Waits until every rank holds its model.

        Raises:
            RanksLost: one died, said something else, or took too long.
            ConfigurationError: one cannot start as it was told to, or holds something else.
        """
        try:
            async with asyncio.timeout(self._bounds.start):
                self._ready = _alike(await self._received())
        except TimeoutError as error:
            raise RanksLost(f"not every rank was ready within {self._bounds.start:g} s") from error
        except _RankDied as error:
            # The channel ends just before the process does: its exit code is about to come.
            await error.rank.stop()
            code = error.rank.exit_code
            # The others of these ranks may be the ones that it happened to first.
            self.killed = any(rank.exit_code == -signal.SIGKILL for rank in self._ranks)
            if code == EXIT_CONFIGURATION:
                raise ConfigurationError("the rank cannot start; it said why above") from error
            raise RanksLost(f"{error} with {code} while starting") from error

    async def execute(self, command: Command) -> Reply:
        """See port.Ranks; the ranks are given up if one is lost, or if they disagree."""
        if self.cause is not None:
            raise RanksLost("the ranks were lost; repeat the request")
        try:
            replies = await self._replies(command)
            reply = reconcile(command, replies)
            if isinstance(reply, Failed) and isinstance(command, Prepare):
                await self._withdraw(command, replies)
        except RanksLost as error:
            self.give_up(str(error))
            raise
        except RanksDisagree as error:
            # A defect: whatever made one rank differ may have made them all wrong.
            _log.exception("ranks disagree", command=command.kind, request_id=command.request_id)
            self.give_up(str(error))
            raise RanksLost("the ranks disagreed; repeat the request") from error
        if isinstance(reply, Failed):
            raise reply.error()
        self.proven = self.proven or isinstance(reply, Finished)
        return reply

    async def watch(self) -> str:
        """Waits until a rank dies or falls silent, or the ranks are given up; returns why."""
        ends = [asyncio.create_task(rank.ended()) for rank in self._ranks]
        ends += [asyncio.create_task(self._silent()), asyncio.create_task(self._lost())]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
        return done.pop().result()

    def give_up(self, cause: str) -> None:
        """Whoever waits for a command hears of it at once; the first cause counts."""
        self.cause = self.cause or cause
        self._given_up.set()
        for rank in self._ranks:
            rank.link.close()

    async def stop(self) -> None:
        """Lets the ranks end by themselves, if they are idle."""
        await asyncio.gather(*(rank.stop() for rank in self._ranks))

    async def kill(self) -> list[int]:
        """Kills the ranks, whatever they are doing; returns the numbers of those that stay."""
        gone = await asyncio.gather(*(rank.kill() for rank in self._ranks))
        return [rank.number for rank, is_gone in zip(self._ranks, gone, strict=True) if not is_gone]

    async def _replies(self, command: Command) -> Sequence[Reply]:
        """Every rank's reply, by number.

        Raises:
            RanksLost: one died, hung, or cannot go on; the others are of no use any more.
            TriptychError: the command is too long; nothing was sent.
        """
        frame = encode_frame(command)
        try:
            async with asyncio.timeout(self._bounds.command) as bound:
                self._hurried = False
                # On its way before the event loop turns to what the last command brought.
                for rank in self._ranks:
                    rank.link.write(frame)
                await asyncio.gather(*(rank.link.drain() for rank in self._ranks))
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

    async def _received(
        self, command: Command | None = None, bound: asyncio.Timeout | None = None
    ) -> Sequence[Reply]:
        receiving = [asyncio.create_task(_receive(rank)) for rank in self._ranks]
        try:
            for next_reply in asyncio.as_completed(receiving):
                reply = await next_reply
                if isinstance(reply, Failed) and reply.fatal:
                    raise RanksLost(f"{reply.message}; repeat the request")
                if isinstance(reply, Failed) and isinstance(command, Step) and bound:
                    self._hurry(bound)
        finally:
            for task in receiving:
                task.cancel()
            await asyncio.gather(*receiving, return_exceptions=True)
        return [task.result() for task in receiving]

    async def _withdraw(self, command: Prepare, replies: Sequence[Reply]) -> None:
        """Has a request forgotten by the ranks that took it in, where others failed to."""
        if not all(isinstance(reply, Failed) for reply in replies):
            # To all, as every command; those that do not hold it say so.
            kept = None if command.resume is None else command.resume.completed_steps
            await self._replies(Abort(request_id=command.request_id, kept=kept))

    def _hurry(self, bound: asyncio.Timeout) -> None:
        self._hurried = True
        when = bound.when()
        soon = asyncio.get_running_loop().time() + self._bounds.silence
        if when is None or soon < when:
            bound.reschedule(soon)

    async def _silent(self) -> str:
        while True:
            await asyncio.sleep(self._bounds.beat)
            for rank in self._ranks:
                if rank.link.tick() > _BEATS:
                    return f"rank {rank.number} was silent for {self._bounds.silence:g} s"

    async def _lost(self) -> str:
        await self._given_up.wait()
        assert self.cause is not None
        return self.cause


async def _receive(rank: Rank) -> Reply:
    try:
        return await rank.link.receive()
    except ConnectionError as error:
        raise _RankDied(rank) from error


def _alike(replies: Sequence[Reply]) -> RankReady:
    ready = replies[0]
    if not all(isinstance(reply, RankReady) for reply in replies):
        raise RanksLost(f"a rank said {type(ready).__name__} before it was ready")
    try:
        check_alike(replies)
    except RanksDisagree as error:
        raise ConfigurationError(f"the ranks do not hold the same: {error}") from error
    assert isinstance(ready, RankReady)
    return ready
