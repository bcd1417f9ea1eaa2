"""Cached bytes on a tmpfs directory, for processes on one host."""

from collections.abc import Callable

from services.domain.store_control import EntryUsage
from services.tensor_store.entry_directory import EntryDirectory
from services.tensor_store.entry_store import EntryStore, check_entry_name


class SharedMemoryEntries(EntryStore):
    """One process's door to the entries that several share.

    Args:
        directory: where they are.
        limit_bytes: what all entries together may have.
        idle_seconds: what nobody used for so long is forgotten.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        directory: EntryDirectory,
        limit_bytes: int,
        idle_seconds: float,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._idle_seconds = idle_seconds
        self._clock = clock

    def read(self, name: str) -> memoryview | None:
        """See EntryStore."""
        check_entry_name(name)
        now = self._clock()
        return self._directory.read(name, now, used_after=now - self._idle_seconds)

    def write(self, name: str, data: memoryview) -> bool:
        """See EntryStore."""
        check_entry_name(name)
        if data.nbytes > self._limit_bytes:
            return False
        with self._directory.locked() as alone:
            if not alone:
                return False
            self._directory.discard_unfinished()
            self._directory.discard(name)
            self._make_room(data.nbytes)
            return self._directory.add(name, data, self._clock())

    def discard(self, name: str) -> None:
        """See EntryStore."""
        check_entry_name(name)
        self._directory.discard(name)

    def sweep(self) -> int:
        """See EntryStore. Also removes what a killed writer left."""
        idle_since = self._clock() - self._idle_seconds
        idle = [each for each in self._directory.files() if each.used_time <= idle_since]
        for each in idle:
            self._directory.discard(each.name)
        with self._directory.locked() as alone:
            if alone:
                self._directory.discard_unfinished()
        return len(idle)

    def clear(self) -> int:
        """See EntryStore."""
        with self._directory.emptied() as freed_bytes:
            return freed_bytes

    def usage(self) -> EntryUsage:
        """See EntryStore."""
        sizes = [each.size_bytes for each in self._directory.files()]
        return EntryUsage(len(sizes), sum(sizes), self._limit_bytes)

    def _make_room(self, size_bytes: int) -> None:
        files = self._directory.files()
        held_bytes = sum(each.size_bytes for each in files)
        for each in files:
            if held_bytes + size_bytes <= self._limit_bytes:
                return
            self._directory.discard(each.name)
            held_bytes -= each.size_bytes
