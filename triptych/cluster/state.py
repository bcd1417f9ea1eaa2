"""What of a local cluster outlives it: its jobs, and the artifacts that came of them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

from triptych.cluster.errors import ClusterConfigurationError
from triptych.cluster.valkey import valkey_binary

_OTHERWISE: Final = "or keep nothing with --state off"


@dataclass(frozen=True, slots=True)
class State:
    """A directory that one cluster at a time has to itself.

    Attributes:
        directory: absolute; a later cluster goes on with what is in it.
    """

    directory: Path

    @property
    def jobs(self) -> Path:
        """Directory of the ledger's server."""
        return self.directory / "jobs"

    @property
    def artifacts_url(self) -> str:
        """The artifact store."""
        return f"file://{quote(str(self.directory / 'artifacts'))}"


def default_directory(port: int) -> Path:
    """Where the cluster at a port keeps its state, by the XDG Base Directory Specification.

    Raises:
        ClusterConfigurationError: nobody says where this user's home is.
    """
    # By the specification a relative path is to be ignored.
    told = Path(os.environ.get("XDG_STATE_HOME", ""))  # noqa: TID251 - the desktop's, not ours
    try:
        home = told if told.is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise ClusterConfigurationError(
            f"state: this user has no home directory; name one with --state DIR, {_OTHERWISE}"
        ) from error
    return home / "triptych" / str(port)


def check_installed() -> None:
    """Refuses to keep jobs without what it takes.

    Raises:
        ClusterConfigurationError: a package is not installed; says which.
    """
    try:
        valkey_binary()
    except ClusterConfigurationError as error:
        raise ClusterConfigurationError(f"state: {error}; {_OTHERWISE}") from error
    if find_spec("redis") is None:
        raise ClusterConfigurationError(
            "state: the client of its server is not installed: pip install 'triptych[redis]';"
            f" {_OTHERWISE}"
        )


@contextmanager
def held_state(directory: Path) -> Iterator[State]:
    """Makes a directory if need be, and has it until the block is left or this process ends.

    Raises:
        ClusterConfigurationError: another cluster has it, it cannot be used, or what it takes is
            not installed.
    """
    check_installed()
    state = State(directory.absolute())
    try:
        # The user's own directory keeps the mode it has; nobody else reads what is put into it.
        state.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.jobs.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(state.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ClusterConfigurationError(
            f"state: cannot use {state.directory}: {error.strerror}; name another directory with"
            f" --state DIR, {_OTHERWISE}"
        ) from error
    try:
        _lock(lock, state.directory)
        yield state
    finally:
        # The kernel does so too, however this process ends.
        os.close(lock)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        raise ClusterConfigurationError(
            f"state: {directory} is in use by the cluster of process {holder}; end that one, name"
            f" another directory with --state DIR, {_OTHERWISE}"
        ) from error
    except OSError as error:
        raise ClusterConfigurationError(
            f"state: the file system of {directory} cannot lock files ({error.strerror}); name a"
            " directory on another one with --state DIR"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
