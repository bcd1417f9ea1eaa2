"""A Redis or Valkey server: its address, and what its errors mean here."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 — what the library calls it
    OutOfMemoryError,
    RedisError,
    TimeoutError,  # noqa: A004 — as above
)
from redis.retry import Retry

from services.tensor_store.store_url import StoreOptions, StoreUrl
from triptych.domain.errors import ConfigurationError, StoreFull, Unavailable

DEFAULT_PORT: Final = 6379
MIN_VERSION: Final = (7, 0)
CHUNK_BYTES: Final = 4 << 20
"""The server drops a connection that sends a value of more than 512 MiB, and is fastest far below
it."""
# A server that restarts is back within seconds; a request that waits longer had better be repeated.
_RETRIES: Final = 4
_LONGEST_PAUSE_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.05


class RedisOptions(StoreOptions):
    """What may follow `redis://host:port?`, `rediss://host:port?` and `redis+unix:///socket?`.

    Attributes:
        verify: whether readers compare the checksum of all bytes; on, since they cross a network.
        db: number of the database.
        key_prefix: what all keys begin with.
        username: of the server's access list; None for its default user.
        password_file: file with the password; command lines and URLs are not secret.
        ca_file: certificates that the server's must be signed by; the system's by default.
        cert_file, key_file: certificate and key to show to the server.
        timeout_seconds: how long the server may take for one command.
        connect_attempts: how often a process that starts tries to reach the server, about a second
            apart.
    """

    verify: bool = True
    db: Annotated[int, Field(ge=0)] = 0
    key_prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "triptych"
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    connect_attempts: Annotated[int, Field(ge=1, le=3600)] = 30


class RedisServer:
    """One process's connections to a server. Thread-safe.

    Args:
        url: where it is.
        options: what the URL says beyond that.

    Raises:
        ConfigurationError: it is not reached, refuses this process, or is not fit to keep tensors.
    """

    def __init__(self, url: StoreUrl, options: RedisOptions) -> None:
        self.where = f"{url.scheme}://{url.host}{url.path}"
        self._options = options
        self.client: Redis = Redis(
            **_place(url),
            **_credentials(options),
            **_encryption(url, options),
            db=options.db,
            socket_timeout=options.timeout_seconds,
            socket_connect_timeout=options.timeout_seconds,
            health_check_interval=30,
            retry=_patience(0),
        )
        self._check()
        self.client.set_retry(_patience(_RETRIES))

    def run_identity(self) -> str:
        """32 hexadecimal digits, equal for all who use the same keys of the same run of the server.

        Tensors do not outlive the server: what is restarted is another store.

        Raises:
            Unavailable: it is not reached.
        """
        with self.translated():
            return self.identity_of(self.client.info("server"))

    def identity_of(self, server: dict[str, Any]) -> str:
        """The same, of what the server says about itself."""
        run = f"{server['run_id']}:{self._options.db}:{self._options.key_prefix}"
        return hashlib.sha256(run.encode()).hexdigest()[:32]

    def memory_bytes(self) -> tuple[int, int]:
        """What the server uses, and what it may use; 0 for all there is.

        Raises:
            Unavailable: it is not reached.
        """
        with self.translated():
            memory = self.client.info("memory")
        return int(memory["used_memory"]), int(memory["maxmemory"])

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns the library's errors into ours.

        Raises:
            StoreFull: the server has no memory left.
            Unavailable: anything else that went wrong with it.
        """
        try:
            yield
        except OutOfMemoryError as error:
            raise StoreFull(
                f"tensor store: the server at {self.where} has reached its maxmemory"
            ) from error
        except RedisError as error:
            raise Unavailable(f"tensor store: the server at {self.where}: {error}") from error

    def _check(self) -> None:
        patience = _patience(self._options.connect_attempts - 1)
        try:
            server, memory = patience.call_with_retry(self._told, lambda _: None)
        except RedisError as error:
            raise ConfigurationError(f"store: {self.where} cannot be used: {error}") from error
        version = str(server["redis_version"])
        if tuple(map(int, version.split(".")[:2])) < MIN_VERSION:
            wanted = ".".join(map(str, MIN_VERSION))
            raise ConfigurationError(
                f"store: {self.where} is version {version}; allowed are {wanted} and above"
            )
        policy = memory["maxmemory_policy"]
        if int(memory["maxmemory"]) and policy != "noeviction":
            raise ConfigurationError(
                f"store: {self.where} has the maxmemory-policy {policy}; allowed is noeviction,"
                " since a request whose tensors are evicted fails"
            )

    def _told(self) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return self.client.info("server"), self.client.info("memory")
        except AuthenticationError as error:
            # To the library a connection's error, but not one that passes.
            raise ConfigurationError(
                f"store: {self.where} refuses the user"
                f" {self._options.username or 'default'}: {error}"
            ) from error


def _patience(retries: int) -> Retry:
    # A first connection fails in a way of its own while the server reads its files.
    errors = (ConnectionError, TimeoutError, BusyLoadingError)
    backoff = ExponentialBackoff(cap=_LONGEST_PAUSE_SECONDS, base=_FIRST_PAUSE_SECONDS)
    return Retry(backoff, retries, supported_errors=errors)


def _place(url: StoreUrl) -> dict[str, Any]:
    if url.scheme == "redis+unix":
        if url.host or not url.path.startswith("/"):
            raise ConfigurationError(
                f"store: {url.text!r} names no absolute path; allowed is redis+unix:///socket"
            )
        return {"unix_socket_path": url.path}
    host, colon, port = url.host.rpartition(":")
    if not colon or url.host.endswith("]"):
        host, port = url.host, str(DEFAULT_PORT)
    if not host or "@" in host or url.path not in ("", "/") or not port.isdecimal():
        raise ConfigurationError(
            f"store: {url.text!r}; allowed is {url.scheme}://host:port?<option>=<value>, with the"
            " options username, password_file and db for what else it may need"
        )
    return {"host": host.strip("[]"), "port": int(port)}


def _credentials(options: RedisOptions) -> dict[str, Any]:
    if options.password_file is None:
        return {"username": options.username}
    try:
        password = options.password_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"store: cannot read password_file {options.password_file}: {error}"
        ) from error
    return {"username": options.username, "password": password}


def _encryption(url: StoreUrl, options: RedisOptions) -> dict[str, Any]:
    given = {
        "ssl_ca_certs": options.ca_file,
        "ssl_certfile": options.cert_file,
        "ssl_keyfile": options.key_file,
    }
    files = {name: str(path) for name, path in given.items() if path is not None}
    if url.scheme != "rediss":
        if files:
            raise ConfigurationError(
                f"store: {url.text!r} has ca_file, cert_file or key_file, which only rediss:// has"
            )
        return {}
    for path in files.values():
        if not Path(path).is_file():
            raise ConfigurationError(f"store: there is no file {path}")
    return {"ssl": True, **files}
