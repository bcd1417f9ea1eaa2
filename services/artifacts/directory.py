"""Objects as files of a directory that several processes may share."""

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from services.artifacts.object_place import READ_BYTES, Draft, ObjectMissing, ObjectPlace
from triptych.domain.errors import (
    AlreadyExists,
    ConfigurationError,
    ResourceExhausted,
    Unavailable,
)

ABANDONED_SECONDS: Final = 3600.0
"""How long nobody has written to a draft before a sweep takes its writer for dead."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class DirectoryPlace(ObjectPlace):
    """One file per object under `objects`, and what is being written under `drafts`.

    A draft gets its name by a hard link, so that an object is there whole or not at all, and no two
    have one name. It is on the disk before it has the name. A writer that is killed leaves a draft,
    which a sweep of any process removes.

    Args:
        root: the directory; it is made if it is not there, for this user alone.
        clock: seconds of the epoch, as the file system's times are.

    Raises:
        ConfigurationError: the directory cannot be used.
    """

    shared = True

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._objects = root / "objects"
        self._drafts = root / "drafts"
        self._clock = clock
        for directory in (root, self._objects, self._drafts):
            _create(directory)

    def draft(self) -> Draft:
        """See ObjectPlace."""
        with self.errors():
            return _FileDraft(self, self._drafts / secrets.token_hex(16))

    def read(self, name: str, offset: int = 0) -> Iterator[bytes | memoryview]:
        """See ObjectPlace; what is deleted meanwhile is read to its end."""
        with self.errors():
            try:
                opened = self._path(name).open("rb", buffering=0)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise ObjectMissing(name) from error
            with opened:
                opened.seek(offset)
                while chunk := opened.read(READ_BYTES):
                    yield chunk

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See ObjectPlace."""
        pending = [self._path(prefix)]
        while pending:
            for entry in self._scanned(pending.pop()):
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                    continue
                # What disappears meanwhile is left out.
                with suppress(FileNotFoundError):
                    size_bytes = entry.stat(follow_symlinks=False).st_size
                    yield Path(entry.path).relative_to(self._objects).as_posix(), size_bytes

    def delete(self, name: str) -> None:
        """See ObjectPlace."""
        with self.errors():
            self._path(name).unlink(missing_ok=True)

    def url(self, name: str, seconds: float) -> str | None:
        """None: a file has no URL that anybody could read it by."""
        return None

    def sweep(self) -> None:
        """See ObjectPlace."""
        for entry in self._scanned(self._drafts):
            with self.errors(), suppress(FileNotFoundError):
                written = entry.stat(follow_symlinks=False).st_mtime
                if written + ABANDONED_SECONDS <= self._clock():
                    Path(entry.path).unlink()

    def link(self, draft: Path, name: str) -> None:
        """Gives a draft's file its name.

        Raises:
            AlreadyExists: the name is taken.
        """
        path = self._path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.link(draft, path)
        except FileExistsError as error:
            raise AlreadyExists(f"artifacts: {name} is there already") from error
        _sync(path.parent)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns what the system says into what callers are told."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise ResourceExhausted(
                    f"artifacts: the file system of {self._root} is full; repeat the request later"
                ) from error
            raise Unavailable(
                f"artifacts: {self._root} cannot be used: {error.strerror}"
            ) from error

    def _path(self, name: str) -> Path:
        return self._objects / name

    def _scanned(self, directory: Path) -> list[os.DirEntry[str]]:
        with self.errors():
            try:
                with os.scandir(directory) as entries:
                    return [*entries]
            except FileNotFoundError:
                return []


class _FileDraft(Draft):
    def __init__(self, place: DirectoryPlace, path: Path) -> None:
        self._place = place
        self._path = path
        self._file = path.open("xb", buffering=0)
        os.fchmod(self._file.fileno(), 0o600)

    def write(self, data: bytes | memoryview) -> None:
        with self._place.errors():
            view = memoryview(data)
            # The system may take less than it is given.
            while view:
                view = view[self._file.write(view) :]

    def content(self) -> bytes:
        with self._place.errors():
            return self._path.read_bytes()

    def keep(self, name: str, content_type: str) -> None:
        with self._place.errors():
            os.fsync(self._file.fileno())
            self._place.link(self._path, name)

    def discard(self) -> None:
        self._file.close()
        with self._place.errors():
            self._path.unlink(missing_ok=True)


def _create(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"artifacts: cannot create {path}: {error.strerror}") from error
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"artifacts: {path} is not a directory")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"artifacts: {path} belongs to user {status.st_uid}; it must belong to {os.geteuid()}"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigurationError(f"artifacts: {path} has the mode {mode:04o}; it must be 0700")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(f"artifacts: {path} cannot be written to")


def _sync(directory: Path) -> None:
    """Has a new name survive the loss of power, too."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
