"""Cached bytes in this process's own memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from services.domain.store_control import EntryUsage
from services.tensor_store.entry_store import EntryStore, check_entry_name


@dataclass(frozen=True, slots=True)
class _Entry:
    data: bytes
    used_time: float


class EntryTable:
    """What all who use one store's entries share; what was not used for longest comes first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: OrderedDict[str, _Entry] = OrderedDict()

    def size_bytes(self) -> int:
        """Of all entries; only under the lock."""
        return sum(len(each.data) for each in self.entries.values())

    def clear(self) -> int:
        """Forgets all of them; returns how many bytes."""
        with self.lock:
            freed_bytes = self.size_bytes()
            self.entries.clear()
            return freed_bytes


class MemoryEntries(EntryStore):
    """One user's door to the entries of a store.

    Args:
        table: the store's.
        limit_bytes: what all entries together may have.
        idle_seconds: what nobody used for so long is forgotten.
        clock: seconds, from whenever.
    """

    def __init__(
        self,
        table: EntryTable,
        limit_bytes: int,
        idle_seconds: float,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._limit_bytes = limit_bytes
        self._idle_seconds = idle_seconds
        self._clock = clock

    def read(self, name: str) -> bytes | None:
        """See EntryStore."""
        check_entry_name(name)
        now = self._clock()
        with self._table.lock:
            entries = self._table.entries
            entry = entries.get(name)
            if entry is None or entry.used_time <= now - self._idle_seconds:
                return None
            entries[name] = _Entry(entry.data, now)
            entries.move_to_end(name)
            return entry.data

    def write(self, name: str, data: memoryview) -> bool:
        """See EntryStore."""
        check_entry_name(name)
        if data.nbytes > self._limit_bytes:
            return False
        entry = _Entry(bytes(data), self._clock())
        with self._table.lock:
            entries = self._table.entries
            entries.pop(name, None)
            room_bytes = self._limit_bytes - self._table.size_bytes()
            while room_bytes < len(entry.data):
                _, evicted = entries.popitem(last=False)
                room_bytes += len(evicted.data)
            entries[name] = entry
            return True

    def discard(self, name: str) -> None:
        """See EntryStore."""
        check_entry_name(name)
        with self._table.lock:
            self._table.entries.pop(name, None)

    def sweep(self) -> int:
        """See EntryStore."""
        idle_since = self._clock() - self._idle_seconds
        with self._table.lock:
            entries = self._table.entries
            idle = [name for name, each in entries.items() if each.used_time <= idle_since]
            for name in idle:
                del entries[name]
            return len(idle)

    def clear(self) -> int:
        """See EntryStore."""
        return self._table.clear()

    def usage(self) -> EntryUsage:
        """See EntryStore."""
        with self._table.lock:
            return EntryUsage(len(self._table.entries), self._table.size_bytes(), self._limit_bytes)
