"""The byte stream between the supervisor and a rank: four bytes of length, then JSON, and so on.

Loads no torch.
"""

import asyncio
import select
import socket
import struct
import threading

from pydantic import BaseModel

from denoiser_service.rank.commands import Alive, Command, Reply, decode_command, decode_reply
from triptych.domain.errors import TriptychError

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Far above any command, of which references with inline tensors are the largest part."""

_LENGTH = struct.Struct(">I")


def encode_frame(message: BaseModel) -> bytes:
    """One message, ready to be written.

    Raises:
        TriptychError: it is too long; nothing was written.
    """
    payload = message.model_dump_json().encode()
    if len(payload) > MAX_FRAME_BYTES:
        raise TriptychError(
            f"rank channel: {type(message).__name__} takes {len(payload)} bytes;"
            f" allowed are at most {MAX_FRAME_BYTES}"
        )
    return _LENGTH.pack(len(payload)) + payload


async def read_frame(reader: asyncio.StreamReader, limit: int = MAX_FRAME_BYTES) -> bytes:
    """The next frame's payload, of so many bytes at most.

    Raises:
        IncompleteReadError: the other side is gone.
        ConnectionError: what it sends is no frame.
    """
    header = await reader.readexactly(_LENGTH.size)
    return await reader.readexactly(_payload_bytes(header, limit))


class RankChannel:
    """A rank's end of the channel: blocking; the socket stays its opener's.

    One thread may receive; several may send.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection
        self._sending = threading.Lock()

    def wait(self, seconds: float) -> bool:
        """Whether `receive` has something to do; waits so long for it."""
        waiting = select.poll()
        waiting.register(self._connection, select.POLLIN)
        readable = waiting.poll(seconds * 1000)
        return bool(readable)

    def receive(self) -> Command | None:
        """Waits for the next command; None when the supervisor is gone, however it went.

        Raises:
            ConnectionError: what it sends is no command.
        """
        header = self._read(_LENGTH.size)
        payload = None if header is None else self._read(_payload_bytes(header, MAX_FRAME_BYTES))
        return None if payload is None else decode_command(payload)

    def receive_frame(self, limit: int) -> bytes:
        """Waits for a frame's payload, of so many bytes at most.

        Raises:
            ConnectionError: the supervisor is gone, or what it sends is no frame.
        """
        header = self._read(_LENGTH.size)
        payload = None if header is None else self._read(_payload_bytes(header, limit))
        if payload is None:
            raise ConnectionError(
                "rank channel: the supervisor closed it, or said nothing for too long"
            )
        return payload

    def send(self, reply: Reply | Alive) -> None:
        """Sends a reply, or a sign of life between two.

        Raises:
            ConnectionError: the supervisor is gone.
        """
        with self._sending:
            self._connection.sendall(encode_frame(reply))

    def _read(self, size: int) -> bytes | None:
        buffer = bytearray(size)
        rest = memoryview(buffer)
        while rest:
            try:
                received = self._connection.recv_into(rest)
            except OSError:
                # Where the kernel otherwise says end, it says reset of one that was killed with
                # replies unread, and unreachable or timed out of one whose host is gone.
                received = 0
            if received == 0:
                return None
            rest = rest[received:]
        return bytes(buffer)


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

    def write(self, frame: bytes) -> None:
        """Puts a frame on its way; `drain` says how that went."""
        self._writer.write(frame)

    async def drain(self) -> None:
        """Waits until the rank has room for more.

        Raises:
            ConnectionError: the rank is gone.
        """
        try:
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


def _payload_bytes(header: bytes, limit: int) -> int:
    (size,) = _LENGTH.unpack(header)
    if size > limit:
        raise ConnectionError(
            f"rank channel: a frame claims {size} bytes; allowed are at most {limit}"
        )
    return int(size)
