"""The directory that processes on one host share."""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from services.domain.tensor_ref import IDENTIFIER
from services.tensor_store.blob_store import BlobName
from services.tensor_store.entry_directory import EntryDirectory
from services.tensor_store.owner_directory import KEPT, OwnerDirectory
from triptych.domain.errors import ConfigurationError, StoreFull

MIN_FILE_SYSTEM_BYTES = 16 << 20
"""Less cannot hold one request's tensors."""


class StoreRoot:
    """A private directory with one directory per process, one for all, and a file `id`.

    `id` holds the store's identity and serialises those who add or remove directories. It stays
    when the last process leaves, so that a store keeps its identity while its processes restart.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        _create(path)
        self.entries = EntryDirectory(path)
        self._id = path / "id"
        with self._locked():
            self.identity = self._read_or_write_identity()

    def add_owner(self) -> OwnerDirectory:
        """A directory for this process, locked until it is removed or the process ends."""
        directory = self.owner(secrets.token_hex(16))
        # The lock keeps sweepers from seeing a directory that is not locked yet.
        with self._locked():
            try:
                self.entries.create()
                directory.create()
            except OSError as error:
                raise ConfigurationError(
                    f"store: cannot create a directory in {self._path}: {error.strerror}"
                ) from error
        return directory

    def owner(self, owner: str) -> OwnerDirectory:
        """The directory of a process; it need not exist."""
        return OwnerDirectory(self._path, owner)

    def owners(self) -> list[OwnerDirectory]:
        """Those of all processes, the dead included."""
        names = (path.name for path in self._path.iterdir())
        return [self.owner(name) for name in names if IDENTIFIER.fullmatch(name)]

    def remove_dead_owners(self) -> int:
        """Removes what processes that are gone left behind; returns how many files of tensors."""
        with self._locked():
            kept = self.owner(KEPT)
            if not any(kept.live()):
                kept.remove()
            return sum(
                owner.remove() for owner in self.owners() if owner.owner != KEPT and owner.is_dead()
            )

    def keep(self, name: BlobName, limit_bytes: int) -> BlobName:
        """Moves a live blob to where it outlives its owner.

        Args:
            name: of the blob.
            limit_bytes: of all such blobs together.

        Returns:
            What it is called there.

        Raises:
            StoreFull: there is no room for it.
            FileNotFoundError: it is not live.
        """
        kept, path = self.owner(KEPT), self.owner(name.owner).live_path(name)
        with self._locked():
            used_bytes = sum(status.st_size for status in kept.live())
            size_bytes = path.stat().st_size
            if used_bytes + size_bytes > limit_bytes:
                raise StoreFull(
                    f"tensor store: {size_bytes} bytes more do not fit into quota_bytes"
                    f" {limit_bytes}, of which {used_bytes} are kept for when their processes end"
                )
            kept.create_unlocked()
            moved = replace(name, owner=KEPT)
            path.rename(kept.live_path(moved))
        return moved

    def remove_unused_entries(self) -> None:
        """Removes the cache, and what outlives processes, if no process is left to use it."""
        # Under the lock nobody comes; who comes later makes it anew.
        with suppress(FileNotFoundError), self._locked():
            if all(owner.owner == KEPT or owner.is_dead() for owner in self.owners()):
                self.entries.remove()
                self.owner(KEPT).remove()

    def file_system_bytes(self) -> tuple[int, int]:
        """What is used of the file system, whoever uses it, and its size."""
        found = os.statvfs(self._path)
        return (found.f_blocks - found.f_bavail) * found.f_frsize, found.f_blocks * found.f_frsize

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._id, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read_or_write_identity(self) -> str:
        identity = self._id.read_text()
        if not identity:
            identity = secrets.token_hex(16)
            self._id.write_text(identity)
        if not IDENTIFIER.fullmatch(identity):
            raise ConfigurationError(
                f"store: {self._id} holds {identity!r}, which is not 32 hexadecimal digits;"
                " remove the directory"
            )
        return identity


def _create(path: Path) -> None:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigurationError(f"store: cannot create {path}: {error.strerror}") from error
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"store: {path} is not a directory")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"store: {path} belongs to user {status.st_uid}; it must belong to {os.geteuid()}"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigurationError(f"store: {path} has the mode {mode:04o}; it must be 0700")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(f"store: {path} cannot be written to")
    file_system = os.statvfs(path)
    size_bytes = file_system.f_blocks * file_system.f_frsize
    if size_bytes < MIN_FILE_SYSTEM_BYTES:
        raise ConfigurationError(
            f"store: the file system of {path} has {size_bytes} bytes;"
            f" at least {MIN_FILE_SYSTEM_BYTES} are needed"
        )
