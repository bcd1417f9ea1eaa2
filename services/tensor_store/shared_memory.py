"""Blobs on a tmpfs directory, for processes on one host."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from services.domain.store_control import Bound, Fullness, StoreStats, SweepReport
from services.tensor_store.blob_store import BlobName, BlobStore, Reservation, check_request
from services.tensor_store.segment import NO_ROOM, map_for_reading
from services.tensor_store.segment_pool import SegmentPool
from services.tensor_store.shared_memory_entries import SharedMemoryEntries
from services.tensor_store.store_root import StoreRoot
from services.tensor_store.store_url import LocalOptions, StoreUrl
from triptych.domain.errors import ConfigurationError, StoreFull, TensorCorrupted, TensorNotFound


class SharedMemoryOptions(LocalOptions):
    """What may follow `shm:///path?`.

    Attributes:
        pool_idle_seconds: how long released memory is kept for the next tensors.
    """

    pool_idle_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0


class SharedMemoryBlobStore(BlobStore):
    """One process's door to a directory that several processes share.

    What a killed process leaves behind goes with the next sweep of any other: the kernel drops the
    lock on its directory. Readers lock the segment they view, so that releasing it early never
    changes what they see; the kernel drops that lock, too, when a reader is killed.

    Made and used in the same process: a forked child must open its own.
    """

    def __init__(
        self,
        path: Path,
        options: SharedMemoryOptions,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.verifies_reads = options.verify
        self._options = options
        self._clock = clock
        self._root = StoreRoot(path)
        self._directory = self._root.add_owner()
        self._pool = SegmentPool(self._directory, self._root.entries, options.quota_bytes)
        self._closed = False

    @classmethod
    def from_url(cls, url: StoreUrl) -> Self:
        """Opens `shm:///directory?quota_bytes=...&verify=...&pool_idle_seconds=...`.

        Raises:
            ConfigurationError: the URL is not allowed, or the directory cannot be used.
        """
        if url.host or not url.path.startswith("/"):
            raise ConfigurationError(
                f"store: {url.text!r} names no absolute directory; allowed is shm:///directory"
            )
        return cls(Path(url.path), url.options(SharedMemoryOptions))

    @property
    def identity(self) -> str:
        """Of the form "shm:<id>", equal for all processes that use the directory."""
        return f"shm:{self._root.identity}"

    @contextmanager
    def reserve(
        self, tenant: str, request_id: str, size_bytes: int, expire_time: float
    ) -> Iterator[Reservation]:
        """See BlobStore."""
        check_request(tenant, request_id)
        with _room():
            segment = self._pool.acquire(size_bytes)
        try:
            name = BlobName(self._directory.owner, tenant, request_id, segment.key)
            yield Reservation(name, memoryview(segment.mapping)[:size_bytes])
            self._pool.publish(segment, name, expire_time)
        except BaseException:
            self._pool.discard(segment)
            raise

    def keep(self, name: BlobName) -> BlobName:
        """See BlobStore. All that is kept together has a quota as large as a process's."""
        try:
            with _room():
                moved = self._root.keep(name, self._options.quota_bytes)
        except FileNotFoundError as error:
            raise TensorNotFound(f"tensors {name.key}: released, or never stored") from error
        self._pool.let_go(name.key)
        return moved

    @contextmanager
    def open(self, name: BlobName, size_bytes: int) -> Iterator[memoryview]:
        """See BlobStore. Writing to the view changes this reader's copy alone."""
        path = self._root.owner(name.owner).live_path(name)
        try:
            with _room():
                mapping = map_for_reading(path, size_bytes)
        except ValueError as error:
            raise TensorCorrupted(
                f"tensors {name.key}: fewer than the expected {size_bytes} bytes are stored"
            ) from error
        if mapping is None:
            raise TensorNotFound(f"tensors {name.key}: released, expired, or never stored")
        yield memoryview(mapping)

    def release_blob(self, name: BlobName) -> bool:
        """See BlobStore."""
        return self._root.owner(name.owner).release(name)

    def entries(self, limit_bytes: int, idle_seconds: float) -> SharedMemoryEntries:
        """See BlobStore. They are gone when the last process has left."""
        return SharedMemoryEntries(self._root.entries, limit_bytes, idle_seconds, clock=self._clock)

    def release_request(self, tenant: str, request_id: str) -> int:
        """See StoreControl."""
        check_request(tenant, request_id)
        with _room():
            return sum(owner.release_request(tenant, request_id) for owner in self._root.owners())

    def sweep(self) -> SweepReport:
        """See StoreControl. Also gives back memory this process has not used for a while."""
        now = self._clock()
        with _room():
            orphaned = self._root.remove_dead_owners()
            expired = sum(owner.release_expired(now) for owner in self._root.owners())
            self._pool.trim(now - self._options.pool_idle_seconds)
        return SweepReport(expired=expired, orphaned=orphaned)

    def stats(self) -> StoreStats:
        """See StoreControl. Counts all processes' tensors."""
        owners = self._root.owners()
        live = [status.st_size for owner in owners for status in owner.live()]
        pooled = [status.st_size for owner in owners for _, status in owner.pooled()]
        return StoreStats(
            identity=self.identity,
            stored_count=len(live),
            stored_bytes=sum(live),
            pooled_bytes=sum(pooled),
            quota_bytes=self._options.quota_bytes,
        )

    def fullness(self) -> Sequence[Fullness]:
        """See StoreControl. Memory that is kept for the next tensors is not free for others'.

        What the cache takes is.
        """
        held = (sum(each.st_size for each in owner.live()) for owner in self._root.owners())
        cached_bytes = sum(each.size_bytes for each in self._root.entries.files())
        used_bytes, size_bytes = self._root.file_system_bytes()
        return (
            Fullness(Bound.QUOTA, max(held, default=0), self._options.quota_bytes),
            Fullness(Bound.FILE_SYSTEM, max(0, used_bytes - cached_bytes), size_bytes),
        )

    def close(self) -> None:
        """See StoreControl. The directory and its identity stay, for the next process."""
        if not self._closed:
            self._closed = True
            self._pool.close()
            self._directory.remove()
            self._root.remove_unused_entries()


@contextmanager
def _room() -> Iterator[None]:
    """Says of what the process lacks, file descriptors for example, what a full store says."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StoreFull(f"tensor store: {error.strerror}") from error
        raise
