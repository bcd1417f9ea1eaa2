"""Objects in the memory of this process."""

import threading
from collections.abc import Iterator

from services.artifacts.object_place import READ_BYTES, Draft, ObjectMissing, ObjectPlace
from triptych.domain.errors import AlreadyExists


class MemoryPlace(ObjectPlace):
    """A dictionary. Bounded by the quotas of the store above it, which sees every byte."""

    shared = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, bytearray] = {}

    def draft(self) -> Draft:
        """See ObjectPlace."""
        return _MemoryDraft(self)

    def read(self, name: str, offset: int = 0) -> Iterator[bytes | memoryview]:
        """See ObjectPlace; views of what is kept, which nobody changes."""
        with self._lock:
            data = self._objects.get(name)
        if data is None:
            raise ObjectMissing(name)
        view = memoryview(data).toreadonly()
        for start in range(offset, len(view), READ_BYTES):
            yield view[start : start + READ_BYTES]

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See ObjectPlace."""
        with self._lock:
            found = [(name, len(data)) for name, data in self._objects.items()]
        return (entry for entry in found if entry[0].startswith(f"{prefix}/"))

    def delete(self, name: str) -> None:
        """See ObjectPlace."""
        with self._lock:
            self._objects.pop(name, None)

    def url(self, name: str, seconds: float) -> str | None:
        """None: nobody outside can read this process's memory."""
        return None

    def sweep(self) -> None:
        """Nothing: drafts go with their writers."""

    def insert(self, name: str, data: bytearray) -> None:
        """Keeps bytes, which nobody changes from here on.

        Raises:
            AlreadyExists: the name is taken.
        """
        with self._lock:
            if name in self._objects:
                raise AlreadyExists(f"artifacts: {name} is there already")
            self._objects[name] = data


class _MemoryDraft(Draft):
    """One growing array: many small writes take no more memory than one large one."""

    def __init__(self, place: MemoryPlace) -> None:
        self._place = place
        self._data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._data += data

    def content(self) -> bytes:
        return bytes(self._data)

    def keep(self, name: str, content_type: str) -> None:
        self._place.insert(name, self._data)

    def discard(self) -> None:
        # Only the name: the object, if it was kept, is the place's.
        self._data = bytearray()
