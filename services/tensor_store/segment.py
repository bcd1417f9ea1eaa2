"""A file on tmpfs that this process has mapped, and writes to again and again."""

import errno
import fcntl
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


class NoRoom(OSError):
    """The file system, the memory or the process's file descriptors do not suffice."""


@dataclass(slots=True)
class Segment:
    """A mapped file while it is being written.

    The mapping is never closed explicitly: tensors that view it keep it, and it goes with the last
    of them. (`torch.frombuffer` holds a reference to the buffer, but not an export of it, so that
    closing would succeed and leave the tensors dangling.)

    Attributes:
        path: where it is while it is written; its name is the key of the blob.
        descriptor: holds the lock that keeps readers out; None once the writing is over.
    """

    path: Path
    capacity_bytes: int
    mapping: mmap.mmap
    descriptor: int | None

    @property
    def key(self) -> str:
        """Of the blob that is written."""
        return self.path.name

    @classmethod
    def create(cls, path: Path, capacity_bytes: int) -> Self:
        """Allocates a file named after its key.

        Raises:
            NoRoom: not all of it can be allocated; nothing is left.
        """
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            try:
                # Allocated rather than truncated to size: a write into a hole that the file system
                # cannot fill would kill the process.
                os.posix_fallocate(descriptor, 0, capacity_bytes)
                mapping = mmap.mmap(descriptor, capacity_bytes)
            except BaseException:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            if error.errno in NO_ROOM:
                raise NoRoom(error.errno, error.strerror) from error
            raise
        return cls(path, capacity_bytes, mapping, descriptor)

    def publish(self, path: Path, expire_time: float) -> None:
        """Ends the writing; from now on the blob can be found.

        Raises:
            FileNotFoundError: the file was removed meanwhile.
        """
        os.utime(self.path, (expire_time, expire_time))
        # Readers try the lock once, so it must be free before they can find the file.
        self._unlock()
        self.path.rename(path)

    def discard(self) -> None:
        """Ends the writing and removes the file."""
        self._unlock()
        self.path.unlink(missing_ok=True)

    def _unlock(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def lock_for_writing(path: Path) -> int | None:
    """A descriptor whose lock keeps readers out, or None while there is one."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def map_for_reading(path: Path, size_bytes: int) -> mmap.mmap | None:
    """Maps a published blob so that its segment is not written to again while the mapping exists.

    The mapping is private: a reader's write stays in the reader.

    Returns:
        None if the blob is not there, or no longer.

    Raises:
        ValueError: the file is shorter than the blob.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Between opening and locking it may have been released, and even written again.
        if not os.path.samestat(os.fstat(descriptor), path.lstat()):
            return None
        # The mapping keeps a duplicate of the descriptor, and with it the lock.
        return mmap.mmap(descriptor, size_bytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    except (BlockingIOError, FileNotFoundError):
        return None
    finally:
        os.close(descriptor)
