"""Blobs in this process's own memory, for stages that share a process."""

import mmap
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from services.domain.store_control import Bound, Fullness, StoreStats, SweepReport
from services.tensor_store.blob_store import BlobName, BlobStore, Reservation, check_request
from services.tensor_store.memory_entries import EntryTable, MemoryEntries
from services.tensor_store.store_url import LocalOptions, StoreUrl
from triptych.domain.errors import StoreFull, TensorCorrupted, TensorNotFound, Unavailable


class MemoryOptions(LocalOptions):
    """What may follow `memory:?`."""


@dataclass(frozen=True, slots=True)
class _Blob:
    buffer: memoryview
    expire_time: float


class MemoryBlobStore(BlobStore):
    """Stages that share it must be given the same object. Its blobs cannot outlive the process."""

    def __init__(self, options: MemoryOptions, *, clock: Callable[[], float] = time.time) -> None:
        self.verifies_reads = options.verify
        self._quota_bytes = options.quota_bytes
        self._clock = clock
        self._owner = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._blobs: dict[BlobName, _Blob] = {}
        self._reserved_bytes = 0
        self._entries = EntryTable()
        self._closed = False

    @classmethod
    def from_url(cls, url: StoreUrl) -> Self:
        """Opens `memory:?quota_bytes=...&verify=...`.

        Raises:
            ConfigurationError: the URL names a place, or an option that is not allowed.
        """
        url.refuse_location()
        return cls(url.options(MemoryOptions))

    @property
    def identity(self) -> str:
        """Of the form "memory:<id>", new for every object."""
        return f"memory:{self._owner}"

    @contextmanager
    def reserve(
        self, tenant: str, request_id: str, size_bytes: int, expire_time: float
    ) -> Iterator[Reservation]:
        """See BlobStore."""
        name = BlobName(self._owner, tenant, request_id, secrets.token_hex(16))
        with self._lock:
            self._check_room(size_bytes)
            self._reserved_bytes += size_bytes
        try:
            # A mapping rather than a bytearray begins at a page, as the other stores' buffers do.
            buffer = memoryview(mmap.mmap(-1, size_bytes))
            yield Reservation(name, buffer)
            with self._lock:
                self._check_open()
                self._blobs[name] = _Blob(buffer, expire_time)
        except BaseException:
            # Whatever ended the caller's block: the room is free again.
            with self._lock:
                self._reserved_bytes -= size_bytes
            raise

    @contextmanager
    def open(self, name: BlobName, size_bytes: int) -> Iterator[memoryview]:
        """See BlobStore."""
        with self._lock:
            blob = self._blobs.get(name)
        if blob is None:
            raise TensorNotFound(f"tensors {name.key}: released, expired, or never stored")
        if len(blob.buffer) < size_bytes:
            raise TensorCorrupted(
                f"tensors {name.key}: {len(blob.buffer)} bytes are stored, expected {size_bytes}"
            )
        yield blob.buffer[:size_bytes]

    def release_blob(self, name: BlobName) -> bool:
        """See BlobStore."""
        with self._lock:
            return self._remove(name)

    def entries(self, limit_bytes: int, idle_seconds: float) -> MemoryEntries:
        """See BlobStore."""
        return MemoryEntries(self._entries, limit_bytes, idle_seconds, clock=self._clock)

    def release_request(self, tenant: str, request_id: str) -> int:
        """See StoreControl."""
        check_request(tenant, request_id)
        with self._lock:
            names = [
                name
                for name in self._blobs
                if (name.tenant, name.request_id) == (tenant, request_id)
            ]
            return sum(map(self._remove, names))

    def sweep(self) -> SweepReport:
        """See StoreControl."""
        now = self._clock()
        with self._lock:
            names = [name for name, blob in self._blobs.items() if blob.expire_time <= now]
            return SweepReport(expired=sum(map(self._remove, names)), orphaned=0)

    def stats(self) -> StoreStats:
        """See StoreControl."""
        with self._lock:
            return StoreStats(
                identity=self.identity,
                stored_count=len(self._blobs),
                stored_bytes=sum(len(blob.buffer) for blob in self._blobs.values()),
                pooled_bytes=0,
                quota_bytes=self._quota_bytes,
            )

    def fullness(self) -> Sequence[Fullness]:
        """See StoreControl."""
        return (Fullness(Bound.QUOTA, self._reserved_bytes, self._quota_bytes),)

    def close(self) -> None:
        """See StoreControl."""
        with self._lock:
            self._closed = True
            for name in list(self._blobs):
                self._remove(name)
        self._entries.clear()

    def _remove(self, name: BlobName) -> bool:
        blob = self._blobs.pop(name, None)
        if blob is None:
            return False
        self._reserved_bytes -= len(blob.buffer)
        return True

    def _check_room(self, size_bytes: int) -> None:
        self._check_open()
        if self._reserved_bytes + size_bytes > self._quota_bytes:
            raise StoreFull(
                f"tensor store: {size_bytes} bytes more do not fit into quota_bytes"
                f" {self._quota_bytes}, of which {self._reserved_bytes} are in use"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("tensor store: it is closed")
