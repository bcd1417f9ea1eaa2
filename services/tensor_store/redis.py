"""Blobs in a Redis or Valkey server, for processes on different hosts.

The keys, each with a time to live, so that the server forgets whatever dies:

    <prefix>:blob:<tenant>:<request>:<owner>:<key>    hash of a blob's chunks by their numbers
    <prefix>:request:<tenant>:<request>               hash of a request's blobs' sizes by their keys
"""

import mmap
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Self, cast

from redis.exceptions import OutOfMemoryError

from services.domain.store_control import Bound, Fullness, StoreStats, SweepReport
from services.tensor_store.blob_store import BlobName, BlobStore, Reservation, check_request
from services.tensor_store.redis_entries import RedisEntries
from services.tensor_store.redis_server import CHUNK_BYTES, RedisOptions, RedisServer
from services.tensor_store.store_url import StoreUrl
from triptych.domain.errors import (
    ConfigurationError,
    StoreFull,
    TensorCorrupted,
    TensorNotFound,
    TensorRefused,
    TriptychError,
    Unavailable,
)

_REMEMBERED_RUNS: Final = 8
# All who share the store must notice a restart before they can work together again.
_LOOK_SECONDS: Final = 1.0
_FOREVER_SECONDS: Final = 2.0**31


class RedisBlobStore(BlobStore):
    """One process's door to a server that several processes share.

    The server's memory is the only quota. Its clock alone ends what nobody releases.

    Args:
        server: where the blobs are.
        options: from its URL.
        clock: seconds since the epoch.
    """

    def __init__(
        self, server: RedisServer, options: RedisOptions, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.verifies_reads = options.verify
        self._server = server
        self._client = server.client
        self._prefix = options.key_prefix
        self._clock = clock
        self._entries = RedisEntries(server, self._prefix, 0, _FOREVER_SECONDS, clock=clock)
        self._owner = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._runs = deque([server.run_identity()], maxlen=_REMEMBERED_RUNS)
        self._fullness: tuple[Fullness, ...] = ()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="redis watch", daemon=True).start()

    @classmethod
    def from_url(cls, url: StoreUrl) -> Self:
        """Opens `redis://host:port?...`, `rediss://host:port?...` or `redis+unix:///socket?...`.

        Raises:
            ConfigurationError: the URL is not allowed, or the server cannot be used.
        """
        options = url.options(RedisOptions)
        store = cls(RedisServer(url, options), options)
        store._try_out()
        return store

    @property
    def identity(self) -> str:
        """Of the form "redis:<id>", equal for all who use the same keys of the same server.

        A server that was restarted is another store; that is noticed within a second or so.
        """
        return f"redis:{self._runs[-1]}"

    def check_own(self, store: str) -> None:
        """See BlobStore.

        Raises:
            Unavailable: it was this one, before the server was restarted.
        """
        if store == self.identity:
            return
        self._look_again()
        if store == self.identity:
            return
        if store.removeprefix("redis:") in self._runs:
            raise self._restarted()
        raise TensorRefused(
            f"tensor reference: its store is {store}; this process has {self.identity}"
        )

    @contextmanager
    def reserve(
        self, tenant: str, request_id: str, size_bytes: int, expire_time: float
    ) -> Iterator[Reservation]:
        """See BlobStore."""
        name = BlobName(self._owner, tenant, request_id, secrets.token_hex(16))
        if self._closed.is_set():
            raise Unavailable("tensor store: it is closed")
        # A mapping begins at a page, as the blobs of all stores do.
        buffer = memoryview(mmap.mmap(-1, size_bytes))
        yield Reservation(name, buffer)
        try:
            self._write_making_room(name, buffer, expire_time)
        except StoreFull:
            self.release_blob(name)
            raise

    @contextmanager
    def open(self, name: BlobName, size_bytes: int) -> Iterator[memoryview]:
        """See BlobStore. What is viewed is this reader's copy."""
        buffer = memoryview(mmap.mmap(-1, size_bytes))
        for number, begin in enumerate(range(0, size_bytes, CHUNK_BYTES)):
            with self._server.translated():
                # The library's types leave open whether the client is one to be awaited.
                chunk = cast("bytes | None", self._client.hget(self._blob_key(name), str(number)))
            if chunk is None:
                raise self._missing(name)
            expected = min(CHUNK_BYTES, size_bytes - begin)
            if len(chunk) != expected:
                raise TensorCorrupted(
                    f"tensors {name.key}: chunk {number} has {len(chunk)} bytes,"
                    f" expected {expected}"
                )
            buffer[begin : begin + expected] = chunk
        yield buffer

    def release_blob(self, name: BlobName) -> bool:
        """See BlobStore."""
        # No transaction: a server that is full would not take the commands of one.
        with self._server.translated(), self._client.pipeline(transaction=False) as commands:
            commands.delete(self._blob_key(name))
            commands.hdel(self._request_key(name.tenant, name.request_id), _entry(name))
            deleted, _ = commands.execute()
        return bool(deleted)

    def entries(self, limit_bytes: int, idle_seconds: float) -> RedisEntries:
        """See BlobStore. The server forgets them when nobody uses them.

        Raises:
            ConfigurationError: this process may not do what it has to.
        """
        entries = RedisEntries(
            self._server, self._prefix, limit_bytes, idle_seconds, clock=self._clock
        )
        entries.try_out()
        return entries

    def release_request(self, tenant: str, request_id: str) -> int:
        """See StoreControl."""
        check_request(tenant, request_id)
        request = self._request_key(tenant, request_id)
        with self._server.translated():
            entries = [each.decode() for each in cast("list[bytes]", self._client.hkeys(request))]
            if not entries:
                return 0
            blobs = [self._key("blob", tenant, request_id, each) for each in entries]
            # Only what was seen: a blob that is published meanwhile stays, and stays listed.
            with self._client.pipeline(transaction=False) as commands:
                commands.delete(*blobs)
                commands.hdel(request, *entries)
                deleted, _ = commands.execute()
        return int(deleted)

    def sweep(self) -> SweepReport:
        """See StoreControl. Finds nothing: the server forgets by itself."""
        return SweepReport(expired=0, orphaned=0)

    def stats(self) -> StoreStats:
        """See StoreControl. Counts all processes' tensors; the quota is the server's memory."""
        sizes = []
        with self._server.translated():
            for request in self._client.scan_iter(match=self._key("request", "*"), count=1000):
                listed = cast("dict[bytes, bytes]", self._client.hgetall(request))
                scope = request.decode().removeprefix(self._key("request", ""))
                with self._client.pipeline(transaction=False) as commands:
                    for entry in listed:
                        commands.exists(self._key("blob", scope, entry.decode()))
                    there = commands.execute()
                pairs = zip(listed.values(), there, strict=True)
                sizes += [int(size) for size, exists in pairs if exists]
        return StoreStats(
            identity=self.identity,
            stored_count=len(sizes),
            stored_bytes=sum(sizes),
            pooled_bytes=0,
            quota_bytes=self._server.memory_bytes()[1],
        )

    def fullness(self) -> Sequence[Fullness]:
        """See StoreControl. Nothing while the server is not reached. The cache takes no room."""
        return self._fullness

    def close(self) -> None:
        """See StoreControl. What was stored stays: others may be about to read it."""
        self._closed.set()
        self._client.close()

    def _try_out(self) -> None:
        """Raises ConfigurationError if this process may not do what it will have to."""
        request_id = secrets.token_hex(16)
        try:
            with self.reserve("start", request_id, 1, self._clock() + 60) as reservation:
                pass
            with self.open(reservation.name, 1):
                pass
            self.release_request("start", request_id)
        except Unavailable as error:
            raise ConfigurationError(f"store: cannot be used: {error}") from error

    def _write_making_room(self, name: BlobName, buffer: memoryview, expire_time: float) -> None:
        with self._server.translated():
            try:
                self._write(name, buffer, expire_time)
            except OutOfMemoryError:
                # A request's tensors come before what is only kept in case it is wanted again.
                # Once: those who keep such things go on, and could fill any room for ever.
                if not self._made_room():
                    raise
                self._write(name, buffer, expire_time)

    def _made_room(self) -> bool:
        with suppress(Unavailable):
            return self._entries.clear() > 0
        return False

    def _write(self, name: BlobName, buffer: memoryview, expire_time: float) -> None:
        blob, request = self._blob_key(name), self._request_key(name.tenant, name.request_id)
        life = max(1, int((expire_time - self._clock()) * 1000))
        for number, begin in enumerate(range(0, len(buffer), CHUNK_BYTES)):
            with self._client.pipeline() as commands:
                commands.hset(blob, str(number), buffer[begin : begin + CHUNK_BYTES])
                # With each: whoever ended the blob meanwhile must not leave one without an end.
                commands.pexpire(blob, life)
                commands.execute()
        with self._client.pipeline() as commands:
            commands.hset(request, _entry(name), str(len(buffer)))
            # It lives as long as the blob that lives longest.
            commands.pexpire(request, life, nx=True)
            commands.pexpire(request, life, gt=True)
            commands.info("server")
            *_, server = commands.execute()
        if self._adopt(self._server.identity_of(server)):
            # Some chunks may be in the old server's memory, and the reference names it.
            raise self._restarted()

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            try:
                self._look_again()
                used_bytes, limit_bytes = self._server.memory_bytes()
                used_bytes = max(0, used_bytes - self._cached_bytes())
            except Unavailable:
                self._fullness = ()
            else:
                self._fullness = (Fullness(Bound.SERVER, used_bytes, limit_bytes or None),)

    def _cached_bytes(self) -> int:
        """What the cache would give up; 0 where this process may not ask it to."""
        try:
            return self._entries.usage().size_bytes
        except Unavailable:
            return 0

    def _missing(self, name: BlobName) -> TriptychError:
        if self._look_again():
            return self._restarted()
        return TensorNotFound(f"tensors {name.key}: released, expired, or never stored")

    def _look_again(self) -> bool:
        """Whether the server was restarted since this process last looked."""
        return self._adopt(self._server.run_identity())

    def _adopt(self, run: str) -> bool:
        with self._lock:
            changed = run != self._runs[-1]
            if changed:
                self._runs.append(run)
            return changed

    def _restarted(self) -> Unavailable:
        return Unavailable(
            f"tensor store: the server at {self._server.where} was restarted and has lost its"
            " tensors; repeat the request"
        )

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _blob_key(self, name: BlobName) -> str:
        return self._key("blob", name.tenant, name.request_id, _entry(name))

    def _request_key(self, tenant: str, request_id: str) -> str:
        return self._key("request", tenant, request_id)


def _entry(name: BlobName) -> str:
    return f"{name.owner}:{name.key}"
