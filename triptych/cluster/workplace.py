"""What a local cluster keeps on disk while it runs: sockets, a secret, logs, tensors."""

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from triptych.cluster.errors import ClusterConfigurationError
from triptych.cluster.ownership import PREFIX, owned, remove_abandoned
from triptych.cluster.state import State

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a memory file system, not a place for files
MIN_SHARED_MEMORY_BYTES = 256 * 2**20
EMBEDDED = "redis"
"""Asks for a server that is started with the cluster and ends with it."""

_MAX_SOCKET_PATH_BYTES = 107
_LONGEST_SOCKET_NAME = "denoiser-99.sock"


@dataclass(frozen=True, slots=True)
class Workplace:
    """Paths and names the processes of one cluster share.

    Attributes:
        directory: private to this user; removed with the cluster.
        secret_file: 64 hexadecimal digits that sign tensor references.
        store_url: the tensor store.
        logs: one file per process.
        store_socket: where the cluster's own server of tensors listens; None if it has none.
        state: what outlives the cluster; None if nothing does.
    """

    directory: Path
    secret_file: Path
    store_url: str
    logs: Path
    store_socket: Path | None = None
    state: State | None = None

    @property
    def ledger_socket(self) -> Path:
        """Where the server of the jobs' ledger listens, if the cluster has a state."""
        return self.directory / "ledger.sock"

    @property
    def jobs_url(self) -> str:
        """The ledger of that server."""
        return f"redis+unix://{self.ledger_socket}"

    def socket(self, name: str) -> str:
        """The gRPC address of a stage's unix socket."""
        return f"unix:{self.directory / name}.sock"


@contextmanager
def workplace(
    store_url: str | None = None,
    logs: Path | None = None,
    *,
    state: State | None = None,
    parent: Path | None = None,
    shared_memory: Path = SHARED_MEMORY,
) -> Iterator[Workplace]:
    """Makes a workplace and removes it at the end, with whatever killed processes left in it.

    What clusters left behind that were killed themselves is removed first.

    Args:
        store_url: a tensor store of the user's own, left as it is; EMBEDDED for a server of this
            cluster alone; None for a fresh one in memory.
        logs: a directory of the user's own, made if needed and left; None for one that is removed.
        state: what is left as well.
        parent: where the workplace is made; the system's directory for such things by default.
        shared_memory: where a fresh store goes while there is room.

    Raises:
        ClusterConfigurationError: a directory cannot be made, or its path is too long.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_abandoned(parent, shared_memory)
    with _private_directory(_unused_name(parent)) as directory, owned(directory):
        _check_socket_path(directory)
        secret_file = directory / "secret"
        secret_file.touch(stat.S_IRUSR | stat.S_IWUSR)
        secret_file.write_text(secrets.token_hex(32))
        logs = _made(logs or directory / "logs")
        if store_url == EMBEDDED:
            socket = directory / "store.sock"
            yield Workplace(directory, secret_file, f"redis+unix://{socket}", logs, socket, state)
            return
        if store_url is not None:
            yield Workplace(directory, secret_file, store_url, logs, state=state)
            return
        # The same name, so that one can be found from the other when both are left behind.
        memory = shared_memory / directory.name if _has_room(shared_memory) else directory / "store"
        with _private_directory(memory) as store:
            yield Workplace(directory, secret_file, f"shm://{store}", logs, state=state)


def _unused_name(parent: Path) -> Path:
    return parent / f"{PREFIX}{secrets.token_hex(4)}"


@contextmanager
def _private_directory(directory: Path) -> Iterator[Path]:
    try:
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise ClusterConfigurationError(f"cannot make {directory}: {error.strerror}") from error
    try:
        yield directory
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterConfigurationError(
            f"log-dir: cannot make {directory}: {error.strerror}"
        ) from error
    return directory.absolute()


def _check_socket_path(directory: Path) -> None:
    length = len(os.fsencode(directory / _LONGEST_SOCKET_NAME))
    if length > _MAX_SOCKET_PATH_BYTES:
        raise ClusterConfigurationError(
            f"socket paths in {directory} have {length} bytes; unix sockets allow"
            f" {_MAX_SOCKET_PATH_BYTES}; set TMPDIR to a directory with a shorter path"
        )


def _has_room(shared_memory: Path) -> bool:
    if not (shared_memory.is_dir() and os.access(shared_memory, os.W_OK)):
        return False
    return shutil.disk_usage(shared_memory).free >= MIN_SHARED_MEMORY_BYTES
