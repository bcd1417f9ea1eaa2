"""The part of a shared-memory store that one process writes to."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.tensor_store import flat_directory
from services.tensor_store.blob_store import BlobName

_LOCK = "lock"
_LIVE = "live"
_POOL = "pool"
_WRITING = "writing"
KEPT: Final = "0" * 32
"""The owner of what outlives the process that wrote it; there is no process of that name."""


class OwnerDirectory:
    """`<root>/<owner>/`: a lock, and one file per segment, whose directory says what it is.

    - `writing/<key>`: seen by its owner alone.
    - `live/<tenant>.<request_id>.<key>`: published. Its modification time is when it expires.
    - `pool/<key>`: released; its owner may write into it again. Its change time is when that was.

    Segments move by renaming only, so every move happens once, whoever else attempts it. Only the
    owner moves files out of `writing` and `pool`; everybody may move them from `live` to `pool`.
    """

    def __init__(self, root: Path, owner: str) -> None:
        self.owner = owner
        self._path = root / owner
        self._lock_descriptor: int | None = None

    def create(self) -> None:
        """Makes the directory, locked for as long as this process lives."""
        self._path.mkdir(mode=0o700)
        for directory in (_LIVE, _POOL, _WRITING):
            (self._path / directory).mkdir(mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._lock_descriptor = os.open(self._path / _LOCK, flags, 0o600)
        fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def create_unlocked(self) -> None:
        """Makes the directory of no process, if it is not there."""
        for directory in (_LIVE, _POOL, _WRITING):
            (self._path / directory).mkdir(mode=0o700, parents=True, exist_ok=True)

    def is_dead(self) -> bool:
        """Whether its process is gone; only meaningful under the root's lock."""
        try:
            descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # Its process ended while it created or removed the directory.
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def remove(self) -> int:
        """Removes the directory; returns how many segments were in it."""
        # The pool comes after what is live: others may move files from there to it meanwhile.
        removed = sum(flat_directory.remove(self._path / each) for each in (_LIVE, _WRITING, _POOL))
        flat_directory.remove(self._path)
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None
        return removed

    def live_path(self, name: BlobName) -> Path:
        """Where a blob is while it is published."""
        return self._path.joinpath(_LIVE, _file_name(name))

    def writing_path(self, key: str) -> Path:
        """Where a blob is while it is written."""
        return self._path.joinpath(_WRITING, key)

    def pool_path(self, key: str) -> Path:
        """Where a segment is while nobody needs it."""
        return self._path.joinpath(_POOL, key)

    def live(self) -> Iterator[os.stat_result]:
        """The files of published blobs."""
        return (status for _, status in flat_directory.files(self._path / _LIVE))

    def pooled(self) -> Iterator[tuple[str, os.stat_result]]:
        """Keys and files of released segments."""
        return flat_directory.files(self._path / _POOL)

    def release(self, name: BlobName) -> bool:
        """Moves a blob to the pool; False if it is not live."""
        return self._move_to_pool(_file_name(name))

    def release_request(self, tenant: str, request_id: str) -> int:
        """Moves all of a request's blobs to the pool."""
        prefix = f"{tenant}.{request_id}."
        names = flat_directory.names(self._path / _LIVE)
        return sum(self._move_to_pool(name) for name in names if name.startswith(prefix))

    def release_expired(self, now: float) -> int:
        """Moves what is past its time, in seconds since the epoch, to the pool."""
        live = flat_directory.files(self._path / _LIVE)
        names = [name for name, status in live if status.st_mtime <= now]
        return sum(map(self._move_to_pool, names))

    def _move_to_pool(self, file_name: str) -> bool:
        key = file_name.rpartition(".")[2]
        path = self._path.joinpath(_LIVE, file_name)
        try:
            if self.owner == KEPT:
                # Nobody would write into it again.
                path.unlink()
            else:
                path.rename(self.pool_path(key))
        except FileNotFoundError:
            return False
        return True


def _file_name(name: BlobName) -> str:
    return f"{name.tenant}.{name.request_id}.{name.key}"
