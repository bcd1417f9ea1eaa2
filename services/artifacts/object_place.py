"""What an artifact store needs from the place that keeps its bytes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final

READ_BYTES: Final = 1 << 20
"""The most that one chunk of a read holds."""


class ObjectMissing(Exception):
    """There is no object of that name (any more)."""


class Draft(ABC):
    """An object that is being written; nobody sees it before it is kept. For one writer."""

    @abstractmethod
    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes; what they are a view of may be changed afterwards.

        Raises:
            ResourceExhausted: the place is full.
            Unavailable: the place cannot be reached.
        """

    @abstractmethod
    def content(self) -> bytes:
        """A copy of all that was written."""

    @abstractmethod
    def keep(self, name: str, content_type: str) -> None:
        """Makes it an object, whole or not at all, and durable where the place is.

        Raises:
            AlreadyExists: the name is taken.
            ResourceExhausted, Unavailable: see `write`.
        """

    @abstractmethod
    def discard(self) -> None:
        """Forgets it, if it was not kept. Idempotent, also after `keep`."""


class ObjectPlace(ABC):
    """Objects that never change, by name. Blocking and thread-safe.

    Names are paths of parts that are safe in a file system, joined by "/"; the caller sees to that.
    Every method may raise Unavailable where the place is outside this process.
    """

    @property
    @abstractmethod
    def shared(self) -> bool:
        """Whether other processes may add and remove objects."""

    @abstractmethod
    def draft(self) -> Draft:
        """A new object, empty and without a name."""

    @abstractmethod
    def read(self, name: str, offset: int = 0) -> Iterator[bytes | memoryview]:
        """The bytes from an offset on, at most READ_BYTES at a time.

        An object that is deleted meanwhile is read to its end, or ends with ObjectMissing.

        Raises:
            ObjectMissing: there is none of that name; when the first chunk is asked for.
        """

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names and sizes in bytes of all objects below a prefix of whole parts, in any order."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes an object, if it is there."""

    @abstractmethod
    def url(self, name: str, seconds: float) -> str | None:
        """A URL that anybody may read the object by for so long; None where there are none."""

    def create(self, name: str, data: bytes, content_type: str) -> None:
        """Keeps a small object; raises as Draft does."""
        draft = self.draft()
        try:
            draft.write(data)
            draft.keep(name, content_type)
        finally:
            draft.discard()

    @abstractmethod
    def sweep(self) -> None:
        """Removes drafts whose writers are gone, where any can be left."""
