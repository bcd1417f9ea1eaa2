"""Cached bytes in a Redis or Valkey server, for processes on different hosts.

The keys, each forgotten by the server when nobody has used it for too long:

    <prefix>:cache:entry:<name>    hash of an entry's chunks by their numbers
    <prefix>:cache:sizes           hash of entries' sizes in bytes by their names
    <prefix>:cache:used            entries' names by when they were last used
    <prefix>:cache:turn            set by who writes an entry, so that no two fill the same room
"""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

from redis import WatchError
from redis.client import Pipeline

from services.domain.store_control import EntryUsage
from services.tensor_store.entry_store import EntryStore, check_entry_name
from services.tensor_store.redis_server import CHUNK_BYTES, RedisServer
from triptych.domain.errors import ConfigurationError, StoreFull, Unavailable

_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class _Listed:
    name: str
    size_bytes: int
    used_time: float


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
        self._sizes, self._used, self._turn = (
            f"{prefix}:cache:{each}" for each in ("sizes", "used", "turn")
        )
        self._entry_prefix = f"{prefix}:cache:entry:"
        self._limit_bytes = limit_bytes
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
        with suppress(StoreFull), self._server.translated():
            for _ in range(_TRIES):
                with suppress(WatchError), self._client.pipeline() as commands:
                    self._replace(commands, name, data.cast("B"))
                    return True
        return False

    def discard(self, name: str) -> None:
        """See EntryStore."""
        check_entry_name(name)
        self._remove([name])

    def sweep(self) -> int:
        """See EntryStore. The server has forgotten them by itself, but not that they were there."""
        idle_since = self._clock() - self._idle_seconds
        idle = [each.name for each in self._listed() if each.used_time <= idle_since]
        self._remove(idle)
        return len(idle)

    def clear(self) -> int:
        """See EntryStore."""
        listed = self._listed()
        # Only what was seen: what is written meanwhile stays, and stays listed.
        self._remove([each.name for each in listed])
        return sum(each.size_bytes for each in listed)

    def usage(self) -> EntryUsage:
        """See EntryStore."""
        idle_since = self._clock() - self._idle_seconds
        sizes = [each.size_bytes for each in self._listed() if each.used_time > idle_since]
        return EntryUsage(len(sizes), sum(sizes), self._limit_bytes)

    def _replace(self, commands: Pipeline, name: str, data: memoryview) -> None:
        # Not the other keys: every use changes those, and what it changes does not matter here.
        commands.watch(self._turn)  # type: ignore[no-untyped-call]
        listed = self._listed_by(commands)
        commands.multi()
        # Whoever else watches it notices at once; nobody ever reads it.
        commands.set(self._turn, "")
        commands.delete(self._turn)
        self._remove_by(commands, [name, *self._in_the_way(listed, name, data.nbytes)])
        for number, begin in enumerate(range(0, data.nbytes, CHUNK_BYTES)):
            commands.hset(self._entry(name), str(number), data[begin : begin + CHUNK_BYTES])
        commands.hset(self._sizes, name, str(data.nbytes))
        commands.zadd(self._used, {name: self._clock()})
        self._renew_by(commands, name)
        commands.execute()

    def _in_the_way(self, listed: Sequence[_Listed], name: str, size_bytes: int) -> list[str]:
        others = [each for each in listed if each.name != name]
        held_bytes = sum(each.size_bytes for each in others)
        evicted = []
        for each in others:
            if held_bytes + size_bytes <= self._limit_bytes:
                break
            evicted.append(each.name)
            held_bytes -= each.size_bytes
        return evicted

    def _touch(self, name: str) -> None:
        with self._client.pipeline(transaction=False) as commands:
            self._renew_by(commands, name)
            commands.zadd(self._used, {name: self._clock()}, xx=True)
            commands.execute()

    def _renew_by(self, commands: Pipeline, name: str) -> None:
        # The lists last: they must not end before what they list.
        for key in (self._entry(name), self._sizes, self._used):
            commands.pexpire(key, self._life_milliseconds)

    def _listed(self) -> Sequence[_Listed]:
        with self._server.translated(), self._client.pipeline(transaction=False) as commands:
            commands.hgetall(self._sizes)
            commands.zrange(self._used, 0, -1, withscores=True)
            return _in_order(*commands.execute())

    def _listed_by(self, commands: Pipeline) -> Sequence[_Listed]:
        sizes = cast("dict[bytes, bytes]", commands.hgetall(self._sizes))
        used = cast(
            "list[tuple[bytes, float]]", commands.zrange(self._used, 0, -1, withscores=True)
        )
        return _in_order(sizes, used)

    def _remove(self, names: Sequence[str]) -> None:
        if not names:
            return
        with suppress(StoreFull):
            self._remove_at_once(names, transaction=True)
            return
        # A server that is full takes no transaction.
        self._remove_at_once(names, transaction=False)

    def _remove_at_once(self, names: Sequence[str], *, transaction: bool) -> None:
        with self._server.translated(), self._client.pipeline(transaction) as commands:
            self._remove_by(commands, names)
            commands.execute()

    def _remove_by(self, commands: Pipeline, names: Sequence[str]) -> None:
        commands.delete(*map(self._entry, names))
        commands.hdel(self._sizes, *names)
        commands.zrem(self._used, *names)

    def _entry(self, name: str) -> str:
        return self._entry_prefix + name


def _in_order(sizes: dict[bytes, bytes], used: list[tuple[bytes, float]]) -> Sequence[_Listed]:
    """What is listed, what was not used for longest first."""
    when = dict(used)
    listed = (_Listed(name.decode(), int(size), when.get(name, 0)) for name, size in sizes.items())
    return sorted(listed, key=lambda each: each.used_time)
