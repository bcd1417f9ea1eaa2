"""The memory one process holds in a shared-memory store."""

import math
import mmap
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from services.tensor_store.blob_store import BlobName
from services.tensor_store.entry_directory import EntryDirectory
from services.tensor_store.owner_directory import OwnerDirectory
from services.tensor_store.segment import NoRoom, Segment, lock_for_writing
from triptych.domain.errors import StoreFull, Unavailable

_MAX_SLACK = 4
"""How many times as large as a blob the segment may be that is used again for it."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A segment that is live or pooled."""

    capacity_bytes: int
    mapping: mmap.mmap


class SegmentPool:
    """Hands out segments to write to: released ones again before new ones. Thread-safe.

    A segment that was mapped before costs no page faults, which take most of the time of writing
    into a new one. When the file system is full, the entries of the cache make room.
    """

    def __init__(
        self, directory: OwnerDirectory, entries: EntryDirectory, quota_bytes: int
    ) -> None:
        self._directory = directory
        self._entries = entries
        self._quota_bytes = quota_bytes
        # Held while names and numbers change, never while bytes are moved or allocated.
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._used_bytes = 0
        self._closed = False

    def acquire(self, size_bytes: int) -> Segment:
        """A segment of at least that size, for the caller to publish or discard.

        Raises:
            StoreFull: the quota or the file system has no room.
            Unavailable: the pool is closed.
        """
        capacity_bytes = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        with self._lock:
            self._check_open()
            segment = self._recycle(capacity_bytes)
            if segment is not None:
                return segment
            self._make_room(capacity_bytes)
            self._used_bytes += capacity_bytes
        try:
            return self._create(capacity_bytes)
        except BaseException:
            with self._lock:
                self._used_bytes -= capacity_bytes
            raise

    def publish(self, segment: Segment, name: BlobName, expire_time: float) -> None:
        """Makes a written segment a blob that expires at a time in seconds since the epoch.

        Raises:
            Unavailable: the pool was closed meanwhile; the caller discards the segment.
        """
        # Known before it can be found: it may be released, and wanted again, at once.
        with self._lock:
            self._check_open()
            self._held[segment.key] = _Held(segment.capacity_bytes, segment.mapping)
        try:
            segment.publish(self._directory.live_path(name), expire_time)
        except FileNotFoundError as error:
            raise Unavailable("tensor store: its directory was removed") from error

    def discard(self, segment: Segment) -> None:
        """Gives the memory of a segment back that could not be written or published."""
        segment.discard()
        with self._lock:
            self._held.pop(segment.key, None)
            self._used_bytes -= segment.capacity_bytes

    def let_go(self, key: str) -> None:
        """Counts a live segment no more: it is somebody else's from now on."""
        with self._lock:
            if (held := self._held.pop(key, None)) is not None:
                self._used_bytes -= held.capacity_bytes

    def trim(self, released_before: float) -> None:
        """Gives the memory back that was released before a time in seconds since the epoch."""
        with self._lock:
            for key, status in self._pooled():
                if status.st_ctime <= released_before:
                    self._evict(key)

    def close(self) -> None:
        """Hands out no more, and lets go of all mappings."""
        with self._lock:
            self._closed = True
            self._held.clear()

    def _recycle(self, capacity_bytes: int) -> Segment | None:
        fitting = [
            (status.st_size, key)
            for key, status in self._pooled()
            if capacity_bytes <= status.st_size <= capacity_bytes * _MAX_SLACK
        ]
        for _, key in sorted(fitting):
            pool_path = self._directory.pool_path(key)
            descriptor = lock_for_writing(pool_path)
            if descriptor is not None:
                held = self._held.pop(key)
                # A new key, so that a reference to the old blob cannot find the new one.
                writing_path = self._directory.writing_path(secrets.token_hex(16))
                pool_path.rename(writing_path)
                return Segment(writing_path, held.capacity_bytes, held.mapping, descriptor)
        return None

    def _make_room(self, capacity_bytes: int) -> None:
        for key, _ in self._pooled():
            if self._used_bytes + capacity_bytes <= self._quota_bytes:
                return
            self._evict(key)
        if self._used_bytes + capacity_bytes > self._quota_bytes:
            raise StoreFull(
                f"tensor store: {capacity_bytes} bytes more do not fit into quota_bytes"
                f" {self._quota_bytes}, of which {self._used_bytes} are in use"
            )

    def _create(self, capacity_bytes: int) -> Segment:
        path = self._directory.writing_path(secrets.token_hex(16))
        # A request's tensors come before what is only kept in case it is wanted again.
        for making_room in (nullcontext(), self._without_pooled(), self._entries.emptied()):
            with making_room:
                try:
                    return Segment.create(path, capacity_bytes)
                except NoRoom as error:
                    refusal = error
                except FileNotFoundError as error:
                    raise Unavailable("tensor store: its directory was removed") from error
        raise StoreFull(
            f"tensor store: cannot allocate {capacity_bytes} bytes: {refusal.strerror}"
        ) from refusal

    @contextmanager
    def _without_pooled(self) -> Iterator[None]:
        self.trim(math.inf)
        yield

    def _pooled(self) -> list[tuple[str, os.stat_result]]:
        return [each for each in self._directory.pooled() if each[0] in self._held]

    def _evict(self, key: str) -> None:
        self._directory.pool_path(key).unlink()
        self._used_bytes -= self._held.pop(key).capacity_bytes

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("tensor store: it is closed")
