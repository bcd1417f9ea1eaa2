"""The supervisor's end of the channel to one rank. Loads no torch."""

import asyncio

from denoiser_service.rank.channel import encode_frame, read_frame
from denoiser_service.rank.commands import Alive, Command, Reply, decode_reply


class RankLink:
    """Reads what a rank says as it comes: replies wait to be received, signs of life are noted.

    Args:
        reader, writer: the two directions of the stream.

    Attributes:
        silence: how often `tick` was called since the rank last said anything.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._replies: asyncio.Queue[Reply | None] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())
        self.silence = 0

    def tick(self) -> int:
        """Counts a moment in which the rank may have been silent; returns how many there were.

        Moments rather than seconds: while this process is itself stopped, there are none.
        """
        self.silence += 1
        return self.silence

    async def send(self, command: Command) -> None:
        """Sends a command.

        Raises:
            TriptychError: it is too long; nothing was sent.
            ConnectionError: the rank is gone.
        """
        frame = encode_frame(command)
        try:
            self._writer.write(frame)
            await self._writer.drain()
        except OSError as error:
            # That a host is not reached any more is no ConnectionError.
            raise ConnectionError(f"the rank's channel ended: {error}") from error

    async def receive(self) -> Reply:
        """Waits for the next reply.

        Raises:
            ConnectionError: the rank is gone, or does not speak the channel's language.
        """
        reply = await self._replies.get()
        if reply is None:
            # For whoever receives next.
            self._replies.put_nowait(None)
            raise ConnectionError("the rank's channel ended")
        return reply

    async def ended(self) -> None:
        """Waits until nothing more can come."""
        await asyncio.wait([self._reading])

    def close(self) -> None:
        """Ends the channel, and with it the rank, if it can still notice."""
        self._reading.cancel()
        self._writer.close()

    async def _read(self) -> None:
        try:
            while True:
                said = decode_reply(await read_frame(self._reader))
                self.silence = 0
                if not isinstance(said, Alive):
                    self._replies.put_nowait(said)
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            self._replies.put_nowait(None)
