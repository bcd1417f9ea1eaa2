"""The artifact store's blocking calls, on threads, for the gateway's event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from services.artifacts.artifact import ArtifactKey, StoredArtifact
from services.artifacts.artifact_store import ArtifactStore
from services.artifacts.artifact_writer import ArtifactWriter
from services.artifacts.room import Limits
from services.gateway.access import Tenant
from services.observability.logs import get_logger
from triptych.domain.errors import TriptychError

T = TypeVar("T")

THREADS: Final = 8
"""Calls at once, beside one sweep; each holds one chunk of an artifact, or one upload's bytes."""

# What results leave of every quota: those who bring pictures need room more than old results do.
_RESULTS_SHARE: Final = 0.75

_log = get_logger(__name__)


class ArtifactCalls:
    """Hashes, copies, writes and reads away from the event loop.

    Args:
        store: whose calls they are.
        tenant_bytes: what a tenant may take whose own quota does not say; None for any amount.
    """

    def __init__(self, store: ArtifactStore, tenant_bytes: int | None) -> None:
        self._store = store
        self._tenant_bytes = tenant_bytes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="artifacts")
        # Apart: a sweep of a bucket may take long.
        self._sweeper = ThreadPoolExecutor(1, thread_name_prefix="artifact sweep")

    def limits(self, tenant: Tenant, *, result: bool) -> Limits:
        """What a tenant may take."""
        own = tenant.quota.artifact_bytes
        share = _RESULTS_SHARE if result else 1.0
        return Limits(self._tenant_bytes if own is None else own, share)

    def begin(self, key: ArtifactKey, ttl_seconds: float, limits: Limits) -> "ArtifactWriting":
        """A new artifact; nothing is asked of the store before the first bytes."""

        def opened() -> ArtifactWriter:
            return self._store.begin(key, ttl_seconds=ttl_seconds, limits=limits)

        return ArtifactWriting(self._threads, opened)

    async def stat(self, key: ArtifactKey) -> StoredArtifact:
        """See ArtifactStore."""
        return await self.run(lambda: self._store.stat(key))

    async def whole(self, key: ArtifactKey) -> bytes:
        """All bytes of an artifact; raises as ArtifactStore.read does."""
        return await self.run(lambda: b"".join(self._store.read(key)[1]))

    async def read(self, key: ArtifactKey, offset: int) -> AsyncGenerator[bytes, None]:
        """The bytes from an offset on, each chunk read when it is asked for.

        Raises:
            ArtifactNotFound, OutOfRange: see ArtifactStore.read.
        """
        _, chunks = await self.run(lambda: self._store.read(key, offset))
        taking = threading.Lock()

        def following() -> bytes:
            with taking:
                return bytes(next(chunks, b""))

        def close() -> None:
            # Not while a thread is inside it.
            with taking:
                getattr(chunks, "close", _nothing)()

        try:
            while chunk := await self.run(following):
                yield chunk
        finally:
            self._threads.submit(close)

    async def url(self, key: ArtifactKey, seconds: float) -> str | None:
        """See ArtifactStore."""
        return await self.run(lambda: self._store.url(key, seconds))

    def delete_soon(self, key: ArtifactKey) -> None:
        """Deletes an artifact; returns at once. What cannot be deleted now will expire."""
        self._threads.submit(self._delete, key)

    def _delete(self, key: ArtifactKey) -> None:
        try:
            self._store.delete(key)
        except TriptychError as error:
            _log.warning("artifact not deleted, will expire", cause=str(error))

    async def run(self, call: Callable[[], T]) -> T:
        """Makes a blocking call; if its caller is cancelled, the call goes on to its end."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def sweep_forever(self, pause_seconds: float) -> None:
        """Removes what has expired, again and again; runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                removed = await loop.run_in_executor(self._sweeper, self._store.sweep)
            except TriptychError as error:
                _log.warning("artifacts not swept", cause=str(error))
            else:
                if removed:
                    _log.info("artifacts swept", expired=removed)
            await asyncio.sleep(pause_seconds)


class ArtifactWriting:
    """One artifact on its way into the store; for one caller at a time.

    Args:
        threads: where its calls are made.
        opened: opens it, in a thread.
    """

    def __init__(self, threads: ThreadPoolExecutor, opened: Callable[[], ArtifactWriter]) -> None:
        self._threads = threads
        self._opened = opened
        self._writer: ArtifactWriter | None = None
        self._discarded = False
        # A call whose caller was cancelled may still be at work when it is discarded.
        self._lock = threading.Lock()

    async def write(self, data: bytes) -> None:
        """See ArtifactWriter."""
        await self.run(lambda writer: writer.write(data))

    async def commit(self, content_type: str, description: str) -> StoredArtifact:
        """See ArtifactWriter."""
        return await self.run(lambda writer: writer.commit(content_type, description))

    async def run(self, call: Callable[[ArtifactWriter], T]) -> T:
        """Makes a blocking call with its writer."""

        def locked() -> T:
            with self._lock:
                if self._discarded:
                    raise TriptychError("artifacts: the writer has left")
                if self._writer is None:
                    self._writer = self._opened()
                return call(self._writer)

        return await asyncio.get_running_loop().run_in_executor(self._threads, locked)

    def discard(self) -> None:
        """Forgets it soon, unless it was committed; returns at once."""
        self._threads.submit(self._discard)

    def _discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self._writer is None:
                return
            try:
                self._writer.discard()
            except TriptychError as error:
                _log.warning("draft of an artifact not removed", cause=str(error))


def _nothing() -> None:
    """Closes what needs no closing."""
