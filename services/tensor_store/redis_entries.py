"""Cached bytes in a Redis or Valkey server, for processes on different hosts.

The keys, each forgotten by the server when nobody has used it for too long:

    <prefix>:cache:entry:<name>    hash of an entry's chunks by their numbers
    <prefix>:cache:sizes           hash of entries' sizes in bytes by their names
    <prefix>:cache:used            entries' names by when they were last used
    <prefix>:cache:total           the sum of the sizes
"""

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from redis.client import Pipeline
from redis.typing import EncodableT

from services.domain.store_control import EntryUsage
from services.tensor_store.entry_store import EntryStore, check_entry_name
from services.tensor_store.redis_scripts import CLEAR, FORGET, REMOVE, WRITE
from services.tensor_store.redis_server import CHUNK_BYTES, RedisServer
from triptych.domain.errors import ConfigurationError, StoreFull, Unavailable


class RedisEntries(EntryStore):
    """One process's door to the entries that several share.

    Args:
        server: where they are.
        prefix: what all keys begin with.
        limit_bytes: what all entries together may have.
        idle_seconds: what nobody used for so long is forgotten.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        server: RedisServer,
        prefix: str,
        limit_bytes: int,
        idle_seconds: float,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._server = server
        self._client = server.client
        self._sizes, self._used, self._total = (
            f"{prefix}:cache:{each}" for each in ("sizes", "used", "total")
        )
        self._entry_prefix = f"{prefix}:cache:entry:"
        # A setting's is of a type that hiredis does not pack.
        self._limit_bytes = int(limit_bytes)
        self._idle_seconds = idle_seconds
        self._life_milliseconds = max(1, int(idle_seconds * 1000))
        self._clock = clock

    def try_out(self) -> None:
        """Raises ConfigurationError if this process may not do what it will have to."""
        name = secrets.token_hex(32)
        try:
            self.write(name, memoryview(b"x"))
            self.read(name)
            self.discard(name)
        except Unavailable as error:
            raise ConfigurationError(f"store: its cache cannot be used: {error}") from error

    def read(self, name: str) -> bytes | None:
        """See EntryStore."""
        check_entry_name(name)
        with self._server.translated(), self._client.pipeline(transaction=False) as commands:
            commands.hgetall(self._entry(name))
            commands.hget(self._sizes, name)
            chunks, size_bytes = commands.execute()
        found = b"".join(chunks[each] for each in sorted(chunks, key=int))
        if size_bytes is None or len(found) != int(size_bytes):
            return None
        # A server that is full does not even note that something was used.
        with suppress(StoreFull), self._server.translated():
            self._touch(name)
        return found

    def write(self, name: str, data: memoryview) -> bool:
        """See EntryStore."""
        check_entry_name(name)
        if data.nbytes > self._limit_bytes:
            return False
        content = data.cast("B")
        chunks = [
            content[begin : begin + CHUNK_BYTES] for begin in range(0, data.nbytes, CHUNK_BYTES)
        ]
        told = (name, data.nbytes, self._limit_bytes, self._clock(), self._life_milliseconds)
        with suppress(StoreFull):
            self._run(WRITE, *told, *chunks)
            return True
        return False

    def discard(self, name: str) -> None:
        """See EntryStore."""
        check_entry_name(name)
        self._run(REMOVE, name)

    def sweep(self) -> int:
        """See EntryStore. The server has forgotten them by itself, but not that they were there."""
        return self._run(FORGET, self._clock() - self._idle_seconds)

    def clear(self) -> int:
        """See EntryStore."""
        return self._run(CLEAR)

    def usage(self) -> EntryUsage:
        """See EntryStore. What nobody used for too long counts until the next sweep."""
        with self._server.translated(), self._client.pipeline(transaction=False) as commands:
            commands.hlen(self._sizes)
            commands.get(self._total)
            count, total = commands.execute()
        return EntryUsage(count, int(total or 0) if count else 0, self._limit_bytes)

    def _run(self, script: str, *told: EncodableT) -> int:
        keys = (self._sizes, self._used, self._total)
        with self._server.translated():
            answer = self._client.eval(script, len(keys), *keys, self._entry_prefix, *told)
        return int(cast("int", answer))

    def _touch(self, name: str) -> None:
        with self._client.pipeline(transaction=False) as commands:
            self._renew_by(commands, name)
            commands.zadd(self._used, {name: self._clock()}, xx=True)
            commands.execute()

    def _renew_by(self, commands: Pipeline, name: str) -> None:
        # The lists last: they must not end before what they list.
        for key in (self._entry(name), self._sizes, self._used, self._total):
            commands.pexpire(key, self._life_milliseconds)

    def _entry(self, name: str) -> str:
        return self._entry_prefix + name
