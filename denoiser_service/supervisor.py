"""Starts the rank process, talks to it, and rebuilds it when it dies or hangs. Holds no model."""

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from denoiser_service.channel import encode_frame, read_frame
from denoiser_service.commands import Command, Failed, RankReady, Reply, decode_reply
from denoiser_service.ranks import error_of
from services.domain.errors import (
    ConfigurationError,
    RanksLost,
)
from services.observability.logs import get_logger
from services.rpc.process import EXIT_CONFIGURATION

_MAX_PAUSE_SECONDS = 30.0
_STOP_SECONDS = 5.0
_SETTLED_SECONDS = 60.0

_log = get_logger(__name__)


class _Rank:
    """One started rank process and the channel to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer

    async def send(self, command: Command) -> None:
        self._writer.write(encode_frame(command))
        await self._writer.drain()

    async def receive(self) -> Reply:
        return decode_reply(await read_frame(self._reader))

    async def stop(self) -> None:
        """Lets the process end by itself: it does when the channel closes."""
        self._writer.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self.process.wait()
        await self.kill()

    async def kill(self) -> None:
        """Kills what is left of the process and collects it."""
        self._writer.close()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


class ProcessRankGroup:
    """A rank in a process of its own, behind the RankGroup port.

    Args:
        flags: the rank's flags; the channel's is added.
        start_seconds: how long it may take to load its model.
        command_seconds: how long a command may take before the rank counts as hung.
        module: what to run as the rank.
    """

    def __init__(
        self,
        flags: Sequence[str],
        *,
        start_seconds: float,
        command_seconds: float,
        module: str = "denoiser_service.rank",
    ) -> None:
        self._flags = flags
        self._module = module
        self._start_seconds = start_seconds
        self._command_seconds = command_seconds
        self._rank: _Rank | None = None
        self._became_ready = asyncio.Event()
        self._closed = False
        self.ready: RankReady | None = None
        self.generation = 0

    async def run(self, on_change: Callable[[bool], Awaitable[None]]) -> None:
        """Keeps a rank alive until it is cancelled; starts none once the group is closed.

        Args:
            on_change: told True when the ranks become ready and False when they are lost.

        Raises:
            ConfigurationError: the rank says it cannot start as it was told to.
        """
        failures = 0
        while not self._closed:
            self.generation += 1
            try:
                rank, ready = await self._start()
            except RanksLost as error:
                failures += 1
                _log.warning("rank did not start", cause=str(error), failures=failures)
            else:
                began = time.monotonic()
                await self._watch(rank, ready, on_change)
                # One that dies as soon as it is ready is no better than one that does not start.
                settled = time.monotonic() - began >= _SETTLED_SECONDS
                failures = 0 if settled else failures + 1
            await asyncio.sleep(_pause_seconds(failures))
        await asyncio.Event().wait()

    async def wait_ready(self) -> RankReady:
        """Waits until the rank holds its model."""
        while self.ready is None:
            await self._became_ready.wait()
        return self.ready

    async def execute(self, command: Command) -> Reply:
        """See RankGroup."""
        rank = self._rank
        if rank is None:
            raise RanksLost("the ranks are being rebuilt; repeat the request")
        try:
            async with asyncio.timeout(self._command_seconds):
                await rank.send(command)
                reply = await rank.receive()
        except TimeoutError as error:
            await self._lose(rank)
            raise RanksLost(
                f"a rank did not answer within {self._command_seconds:g} s; repeat the request"
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            await self._lose(rank)
            raise RanksLost("a rank died; repeat the request") from error
        if isinstance(reply, Failed):
            if reply.fatal:
                await self._lose(rank)
                raise RanksLost(f"{reply.message}; repeat the request")
            raise error_of(reply)
        return reply

    async def close(self) -> None:
        """Ends the rank, gently if it is idle."""
        self._closed = True
        if self._rank is not None:
            await self._rank.stop()

    async def _spawn(self) -> _Rank:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    self._module,
                    *self._flags,
                    "--channel-fd",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    # A rank is ended by its supervisor, not by the terminal's Ctrl-C.
                    start_new_session=True,
                )
            except BaseException:
                writer.close()
                raise
        return _Rank(process, reader, writer)

    async def _start(self) -> tuple[_Rank, RankReady]:
        rank = await self._spawn()
        try:
            async with asyncio.timeout(self._start_seconds):
                ready = await rank.receive()
        except TimeoutError as error:
            await rank.kill()
            raise RanksLost(f"no rank was ready within {self._start_seconds:g} s") from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            # The channel ends just before the process does: its exit code is about to come.
            await rank.stop()
            if rank.process.returncode == EXIT_CONFIGURATION:
                raise ConfigurationError("the rank cannot start; it said why above") from error
            raise RanksLost(
                f"the rank ended with {rank.process.returncode} while starting"
            ) from error
        except asyncio.CancelledError:
            await rank.kill()
            raise
        if not isinstance(ready, RankReady):
            await rank.kill()
            raise RanksLost(f"the rank said {type(ready).__name__} before it was ready")
        return rank, ready

    async def _watch(
        self, rank: _Rank, ready: RankReady, on_change: Callable[[bool], Awaitable[None]]
    ) -> None:
        self._rank, self.ready = rank, ready
        self._became_ready.set()
        _log.info("rank ready", pid=rank.process.pid, generation=self.generation)
        await on_change(True)
        try:
            code = await rank.process.wait()
        finally:
            await self._lose(rank)
        _log.warning("rank ended", code=code, generation=self.generation)
        await on_change(False)

    async def _lose(self, rank: _Rank) -> None:
        if self._rank is rank:
            self._rank = self.ready = None
            self._became_ready.clear()
        await rank.kill()


def _pause_seconds(failures: int) -> float:
    # The first rebuild is at once: requests are waiting for it.
    return 0.0 if failures < 2 else min(2.0 ** (failures - 2), _MAX_PAUSE_SECONDS)
