"""Real servers that speak Redis's protocol, for the tests: the embedded Valkey, Debian's Redis."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError  # noqa: A004 — what the library calls it
from redis.retry import Retry

from triptych.cluster.valkey import valkey_binary

_FOUND = shutil.which("redis-server")
DEBIANS = None if _FOUND is None else Path(_FOUND)
"""Redis itself, where it is installed; it has TLS, which the embedded server has not."""
BINARIES: Mapping[str, Path | None] = {"valkey": None} | (
    {} if DEBIANS is None else {"redis": DEBIANS}
)
"""What there is to test with; they differ in what they still take when they are full."""
_WITHOUT_FILES = ("--save", "", "--appendonly", "no")


class KeyValueServer:
    """A server process that can be killed and started again at the same place.

    Args:
        directory: its own.
        options: further ones of the server.
        binary: which server.
    """

    def __init__(self, directory: Path, *options: str, binary: Path | None = None) -> None:
        self.socket = directory / "server.sock"
        self._command = [
            str(binary or valkey_binary()),
            *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(directory)),
            *_WITHOUT_FILES,
            *options,
        ]
        self.start()

    @property
    def url(self) -> str:
        return f"redis+unix://{self.socket}"

    def start(self) -> None:
        """Starts it, and returns once it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        patience = Retry(ConstantBackoff(0.02), 500, supported_errors=(ConnectionError,))
        patience.call_with_retry(lambda: self.client().ping(), lambda _: None)

    def client(self) -> Redis:
        return Redis(unix_socket_path=str(self.socket))

    @property
    def pid(self) -> int:
        """Its process, the last one."""
        return self._process.pid

    def wait(self) -> None:
        """Returns once it has ended."""
        self._process.wait()

    def kill(self) -> None:
        """Ends it at once, with all it keeps."""
        self._process.kill()
        self._process.wait()


@contextmanager
def key_value_server(*options: str, binary: Path | None = None) -> Iterator[KeyValueServer]:
    # Not in pytest's directory: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="kv-") as directory:
        server = KeyValueServer(Path(directory), *options, binary=binary)
        try:
            yield server
        finally:
            server.kill()
