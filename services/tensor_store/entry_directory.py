"""The part of a shared-memory store that belongs to no one process: the entries of a cache."""

import errno
import fcntl
import mmap
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.tensor_store import flat_directory
from services.tensor_store.entry_store import ENTRY_NAME
from services.tensor_store.segment import NO_ROOM
from triptych.domain.errors import ConfigurationError

_UNFINISHED: Final = "writing"
# A process that is stopped while it writes must not hold up the others.
_PATIENCE_SECONDS: Final = 0.1
_PAUSE_SECONDS: Final = 0.002


@dataclass(frozen=True, slots=True)
class EntryFile:
    """An entry that is there, or was just now."""

    name: str
    size_bytes: int
    used_time: float


class EntryDirectory:
    """`<root>/cache/`: one file per entry, named after it; its modification time is its last use.

    Whoever writes holds a lock on the directory, so that no two fill the same room, and writes into
    a file of another name, which it renames when it is whole. The kernel drops the lock of a writer
    that is killed; what it left is the next one's to remove. Readers lock nothing.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / "cache"

    def create(self) -> None:
        """Makes it, unless it is there.

        Raises:
            ConfigurationError: what is there is no directory.
        """
        try:
            self._path.mkdir(mode=0o700)
        except FileExistsError:
            if not stat.S_ISDIR(self._path.lstat().st_mode):
                raise ConfigurationError(f"store: {self._path} is not a directory") from None

    def files(self) -> Sequence[EntryFile]:
        """All entries, what was not used for longest first."""
        found = (
            EntryFile(name, status.st_size, status.st_mtime)
            for name, status in flat_directory.files(self._path)
            if ENTRY_NAME.fullmatch(name)
        )
        return sorted(found, key=lambda each: each.used_time)

    def read(self, name: str, now: float, used_after: float) -> memoryview | None:
        """An entry that was used after a time, as it stays when it goes; it was used now."""
        try:
            descriptor = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if not status.st_size or status.st_mtime <= used_after:
                    return None
                os.utime(descriptor, (now, now))
                # Not copied: nobody writes into a file that is whole, and its bytes are read once.
                return memoryview(mmap.mmap(descriptor, status.st_size, prot=mmap.PROT_READ))
            finally:
                os.close(descriptor)
        except OSError as error:
            # What is not there, or cannot be opened now, has to be made again; nothing is lost.
            if error.errno in {errno.ENOENT, errno.ELOOP, *NO_ROOM}:
                return None
            raise

    def add(self, name: str, data: memoryview, now: float) -> bool:
        """Writes an entry; False if there is no room for it. Only under the lock."""
        path = self._path / _UNFINISHED
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                # Tried before any of it is written: others need what room there is.
                os.posix_fallocate(descriptor, 0, data.nbytes)
                file.write(data)
            os.utime(path, (now, now), follow_symlinks=False)
            path.rename(self._path / name)
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno in {errno.ENOENT, *NO_ROOM}:
                return False
            raise
        return True

    def discard(self, name: str) -> None:
        """Removes an entry, if it is there."""
        (self._path / name).unlink(missing_ok=True)

    def discard_unfinished(self) -> None:
        """Removes what a killed writer left. Only under the lock."""
        (self._path / _UNFINISHED).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Whether nobody else writes meanwhile; False if it cannot be known for too long."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags)
        except OSError as error:
            if error.errno in {errno.ENOENT, *NO_ROOM}:
                yield False
                return
            raise
        try:
            yield _lock_soon(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def emptied(self) -> Iterator[int]:
        """Keeps it empty inside the context; how many bytes were in it."""
        with self.locked():
            # Even if another process has the lock: it may be stopped, and who asks needs the room.
            found = dict(flat_directory.files(self._path))
            for name in found:
                self.discard(name)
            yield sum(status.st_size for status in found.values())

    def remove(self) -> None:
        """Removes it; nobody uses it any more."""
        with self.locked():
            flat_directory.remove(self._path)


def _lock_soon(descriptor: int) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        else:
            return True
