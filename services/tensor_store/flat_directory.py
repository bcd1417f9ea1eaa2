"""A directory of files that other processes may add to, and remove from, meanwhile."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path


def names(directory: Path) -> list[str]:
    """Of its files, without a look at each of them; none if it is not there."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:
        return []


def files(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Names and states; what disappears meanwhile is left out."""
    try:
        with os.scandir(directory) as opened:
            entries = list(opened)
    except FileNotFoundError:
        return
    for entry in entries:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield entry.name, status


def remove(directory: Path) -> int:
    """Removes it with its files, those that come meanwhile included; returns how many."""
    removed = 0
    while True:
        for name, _ in files(directory):
            (directory / name).unlink(missing_ok=True)
            removed += 1
        if _remove_empty(directory):
            return removed


def _remove_empty(directory: Path) -> bool:
    """Whether it is gone; False if a file has come into it."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            return False
        raise
    return True
