"""What a cache needs from the place that keeps its bytes. Knows no torch."""

import re
from abc import ABC, abstractmethod
from typing import Final

from services.domain.store_control import EntryUsage

ENTRY_NAME: Final = re.compile(r"[0-9a-f]{64}")


class EntryStore(ABC):
    """Bytes by name, for all processes that share a store. Blocking and thread-safe.

    What was not used for longest goes first, to keep a bound; what was not used for a while goes as
    well. So does everything when a request's tensors find no room: entries never take a request's.
    Nothing here is promised to be there later, and no entry is ever seen half written.

    Names have 64 hexadecimal digits; others are a ValueError. Every method may raise Unavailable
    where the store is on another host.
    """

    @abstractmethod
    def read(self, name: str) -> bytes | memoryview | None:
        """An entry's bytes, not to be written to; None if it is not there (any more).

        Counts as a use.
        """

    @abstractmethod
    def write(self, name: str, data: memoryview) -> bool:
        """Keeps bytes, at least one, by a name, in place of what had the name.

        Returns:
            False if they are not kept: they do not fit the bound, the memory is full, or another
            process has been writing for too long.
        """

    @abstractmethod
    def discard(self, name: str) -> None:
        """Forgets an entry, if it is there: it turned out wrong."""

    @abstractmethod
    def sweep(self) -> int:
        """Forgets what nobody used for too long; returns how many entries."""

    @abstractmethod
    def clear(self) -> int:
        """Forgets all of them, whoever wrote them; returns how many bytes."""

    @abstractmethod
    def usage(self) -> EntryUsage:
        """How full it is; what comes and goes meanwhile may be counted, or not."""


def check_entry_name(name: str) -> None:
    """Raises ValueError unless a name is safe inside a path."""
    if not ENTRY_NAME.fullmatch(name):
        raise ValueError(f"entry: {name!r} is not 64 hexadecimal digits")
