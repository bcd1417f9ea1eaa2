"""Ranks that torchrun or a LeaderWorkerSet started, on this host or others. Loads no torch."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from pydantic import SecretStr

from denoiser_service.rank.channel import RankLink, encode_frame, read_frame
from denoiser_service.rank.handshake import (
    MAX_HANDSHAKE_BYTES,
    Challenge,
    Hello,
    Welcome,
    decode,
    notice_lost_peers,
)
from services.observability.logs import get_logger
from triptych.domain.errors import ConfigurationError
from triptych.domain.parallel import ParallelDegrees

_HANDSHAKE_SECONDS = 10.0

_log = get_logger(__name__)


class AttachedRank:
    """A rank that connected; whoever started it also collects it. See port.Rank."""

    def __init__(self, number: int, link: RankLink) -> None:
        self.number = number
        self.link = link
        self.exit_code: int | None = None

    async def ended(self) -> str:
        """Waits until the channel ends; returns whose."""
        await self.link.ended()
        return f"rank {self.number} died"

    async def stop(self) -> None:
        """Closes the channel, at which the rank ends."""
        self.link.close()

    async def kill(self) -> bool:
        """Closes the channel: a rank notices even in the middle of a step; a stopped one cannot."""
        self.link.close()
        return True


class AttachedRanks:
    """Takes in ranks as they connect, and gives them out by whole groups.

    Args:
        host, port: where to listen; the network should be the ranks' own.
        secret: of the cluster.
        degrees: of a group; its ranks must have been told the same.
        beat_seconds: how often they say that they are alive.
    """

    def __init__(
        self, host: str, port: int, secret: SecretStr, degrees: ParallelDegrees, beat_seconds: float
    ) -> None:
        self._host = host
        self._port = port
        self._secret = secret
        self._degrees = degrees
        self._count = degrees.ranks
        self._beat_seconds = beat_seconds
        self._server: asyncio.Server | None = None
        self._waiting: dict[int, dict[int, AttachedRank]] = {}
        self._groups: asyncio.Queue[Sequence[AttachedRank]] = asyncio.Queue()

    async def listen(self) -> int:
        """Begins to take ranks in; returns the port.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        if self._server is None:
            try:
                self._server = await asyncio.start_server(self._take_in, self._host, self._port)
            except OSError as error:
                where = f"{self._host}:{self._port}"
                raise ConfigurationError(
                    f"rank_listen: cannot listen on {where}: {error}"
                ) from error
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def gather(self) -> Sequence[AttachedRank]:
        """Waits until every rank of a group is here; by number."""
        await self.listen()
        return await self._groups.get()

    async def close(self) -> None:
        """Takes no more in, and lets those go that wait."""
        if self._server is not None:
            self._server.close()
        waiting = [rank for group in self._waiting.values() for rank in group.values()]
        while not self._groups.empty():
            waiting += self._groups.get_nowait()
        for rank in waiting:
            rank.link.close()

    async def _take_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        notice_lost_peers(writer.get_extra_info("socket"))
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                hello = await self._greet(reader, writer)
        except (asyncio.IncompleteReadError, OSError) as error:
            peer = writer.get_extra_info("peername")
            _log.warning("rank refused", peer=str(peer), cause=str(error) or "it was too slow")
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            return
        self._admit(AttachedRank(hello.rank, RankLink(reader, writer)), hello.group)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Hello:
        challenge = Challenge()
        writer.write(encode_frame(challenge))
        hello = decode(Hello, await read_frame(reader, MAX_HANDSHAKE_BYTES))
        hello.check(self._secret, challenge)
        if hello.degrees != self._degrees or hello.rank >= self._count:
            raise ConnectionError(
                f"it is rank {hello.rank} of ({hello.degrees}); expected are ranks of"
                f" ({self._degrees})"
            )
        welcome = Welcome(beat_seconds=self._beat_seconds).signed(self._secret, hello)
        writer.write(encode_frame(welcome))
        await writer.drain()
        return hello

    def _admit(self, rank: AttachedRank, group: int) -> None:
        members = self._waiting.setdefault(group, {})
        if rank.number in members:
            members[rank.number].link.close()
        members[rank.number] = rank
        _log.info("rank attached", rank=rank.number, of=self._count)
        if len(members) == self._count:
            del self._waiting[group]
            # The others were started before these, and can reach only one another.
            for stale in [rank for left in self._waiting.values() for rank in left.values()]:
                stale.link.close()
            self._waiting.clear()
            self._groups.put_nowait([members[number] for number in range(self._count)])
