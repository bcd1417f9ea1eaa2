"""Tells directories in use from those that a killed cluster left behind."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "triptych-"

_LOCK: Final = "lock"


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """Marks a directory as in use; the kernel takes the mark away however this process ends."""
    # Locked before it has its name, so that nobody ever finds an owned directory unlocked.
    new = directory / f"{_LOCK}.new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        new.rename(directory / _LOCK)
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(parent: Path, shared_memory: Path) -> None:
    """Removes directories in `parent` whose owner was killed, each with its namesake in memory."""
    for directory in parent.glob(f"{PREFIX}*"):
        if _is_abandoned(directory):
            for leftover in (shared_memory / directory.name, directory):
                with suppress(FileNotFoundError):
                    shutil.rmtree(leftover)


def _is_abandoned(directory: Path) -> bool:
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        # Another user's, another program's, or just being made.
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return directory.lstat().st_uid == os.geteuid()
