"""A Redis or Valkey server that keeps jobs: its address, and whether it is fit to."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, StringConstraints
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 — what the library calls it
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 — as above
)

from services.tensor_store.store_url import StoreOptions, StoreUrl
from triptych.domain.errors import ConfigurationError, LedgerFull, LedgerUnavailable

T = TypeVar("T")

MIN_VERSION: Final = (7, 0)
SCHEMES: Final = ("redis", "rediss", "redis+unix")
_CONNECTIONS: Final = 16
SEVERAL: Final = 4
WITHOUT_END: Final = -1
"""How often something is done again that was not answered."""
_LONGEST_PAUSE_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.05


class LedgerOptions(StoreOptions):
    """What may follow `redis://host:port?`, `rediss://host:port?` and `redis+unix:///socket?`.

    Attributes:
        fsync: what the server has to have as its appendfsync. With "always" an accepted job
            survives a crash of the server's host; with "everysec" one of its process, while the
            disk keeps up, and its host loses what was accepted in the last second or two.
            "unchecked" is for servers that do not tell: it is then for others to know.
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

    fsync: Literal["always", "everysec", "unchecked"] = "always"
    db: Annotated[int, Field(ge=0)] = 0
    key_prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = (
        "triptych-jobs"
    )
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    connect_attempts: Annotated[int, Field(ge=1, le=3600)] = 30


class LedgerServer:
    """One process's connections to a server. For one event loop.

    Args:
        url: where it is.
        options: what the URL says beyond that.

    Raises:
        ConfigurationError: the URL is not allowed.
    """

    def __init__(self, url: StoreUrl, options: LedgerOptions) -> None:
        self.where = f"{url.scheme}://{url.host}{url.path}"
        self._options = options
        try:
            self._pool = BlockingConnectionPool.from_url(
                _address(url),
                max_connections=_CONNECTIONS,
                timeout=options.timeout_seconds,
                db=options.db,
                socket_timeout=options.timeout_seconds,
                socket_connect_timeout=options.timeout_seconds,
                health_check_interval=30,
                retry=_patience(0),
                **_credentials(options),
                **_encryption(url, options),
            )
        except ValueError as error:
            raise ConfigurationError(f"ledger: {url.text!r}: {error}") from error
        self.client: Redis = Redis.from_pool(self._pool)

    async def call(self, work: Callable[[], Awaitable[T]], retries: int = SEVERAL) -> T:
        """Does something with the client, several times if the server does not answer.

        Args:
            work: what may be done again without harm.
            retries: how often; WITHOUT_END for as long as nobody cancels it.

        Raises:
            LedgerFull: the server has no memory left.
            LedgerUnavailable: anything else that went wrong with it.
        """
        try:
            return await _patience(retries).call_with_retry(work, _nothing)
        except OutOfMemoryError as error:
            raise LedgerFull(
                f"ledger: the server at {self.where} has reached its maxmemory"
            ) from error
        except RedisError as error:
            raise LedgerUnavailable(f"ledger: the server at {self.where}: {error}") from error

    async def check(self) -> None:
        """Waits for the server, and makes sure that it can keep jobs.

        Raises:
            ConfigurationError: it is not reached, refuses this process, or would lose jobs; says
                what to set.
        """
        patience = _patience(self._options.connect_attempts - 1)
        try:
            told: dict[str, Any] = await patience.call_with_retry(self._told, _nothing)
            fsync = await self._fsync()
        except RedisError as error:
            raise self._unfit(f"cannot be used: {error}") from error
        self._check_kind(told)
        if int(told["maxmemory"]) and told["maxmemory_policy"] != "noeviction":
            raise self._unfit(
                f"has the maxmemory-policy {told['maxmemory_policy']} and would evict jobs; set it"
                " to noeviction"
            )
        if not int(told["aof_enabled"]):
            raise self._unfit(
                "keeps nothing when it ends, since its appendonly is no; set appendonly yes and"
                " appendfsync always"
            )
        wanted = self._options.fsync
        if fsync not in (None, "always", wanted):
            raise self._unfit(
                f"has appendfsync {fsync} and may lose the jobs it has just accepted; set it to"
                + (
                    " always, or accept the loss of a second or two by fsync=everysec in the URL"
                    if fsync == "everysec"
                    else f" {wanted}"
                )
            )

    async def close(self) -> None:
        """Ends the connections."""
        await self.client.aclose()
        await self._pool.aclose()

    async def _told(self) -> dict[str, Any]:
        try:
            # Everything: servers before 7.0 refuse several sections by name.
            return dict(await self.client.info("everything"))
        except ConnectionError as error:
            # To the library a connection's error, and within one, but not one that passes.
            if not isinstance(error.__cause__ or error, AuthenticationError):
                raise
            user = self._options.username or "default"
            raise self._unfit(f"refuses the user {user}: {error}") from error

    async def _fsync(self) -> str | None:
        """The server's appendfsync; None if it need not be known."""
        if self._options.fsync == "unchecked":
            return None
        try:
            return str((await self.client.config_get("appendfsync"))["appendfsync"])
        except (NoPermissionError, ResponseError, KeyError) as error:
            raise self._unfit(
                f"does not tell its appendfsync ({error}); let the user run CONFIG GET, or say"
                " fsync=unchecked in the URL if you know that it is always"
            ) from error

    def _check_kind(self, told: dict[str, Any]) -> None:
        version = str(told["redis_version"])
        if tuple(map(int, version.split(".")[:2])) < MIN_VERSION:
            wanted = ".".join(map(str, MIN_VERSION))
            raise self._unfit(f"is version {version}; allowed are {wanted} and above")
        if told["role"] != "master":
            raise self._unfit("is a replica; name its primary")
        if int(told.get("cluster_enabled", 0)):
            raise self._unfit(
                "is part of a Redis Cluster; all of a ledger's keys are on one server"
            )

    def _unfit(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"ledger: {self.where} {why}")


async def _nothing(_: Exception) -> None:
    return None


def _patience(retries: int) -> Retry:
    # A first connection fails in a way of its own while the server reads its files.
    errors = (ConnectionError, TimeoutError, BusyLoadingError)
    backoff = ExponentialBackoff(cap=_LONGEST_PAUSE_SECONDS, base=_FIRST_PAUSE_SECONDS)
    return Retry(backoff, retries, supported_errors=errors)


def _address(url: StoreUrl) -> str:
    """The URL as the library reads it: without options, which are ours."""
    if url.scheme == "redis+unix":
        if url.host or not url.path.startswith("/"):
            raise ConfigurationError(
                f"ledger: {url.text!r} names no absolute path; allowed is redis+unix:///socket"
            )
        return f"unix://{url.path}"
    if url.scheme not in SCHEMES or not url.host or "@" in url.host or url.path not in ("", "/"):
        raise ConfigurationError(
            f"ledger: {url.text!r}; allowed is redis://host:port?<option>=<value>, or rediss:// or"
            " redis+unix:///socket, with the options username, password_file and db for what else"
            " it may need"
        )
    return f"{url.scheme}://{url.host}"


def _credentials(options: LedgerOptions) -> dict[str, Any]:
    if options.password_file is None:
        return {"username": options.username}
    try:
        password = options.password_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"ledger: cannot read password_file {options.password_file}: {error}"
        ) from error
    return {"username": options.username, "password": password}


def _encryption(url: StoreUrl, options: LedgerOptions) -> dict[str, Any]:
    given = {
        "ssl_ca_certs": options.ca_file,
        "ssl_certfile": options.cert_file,
        "ssl_keyfile": options.key_file,
    }
    files = {name: path for name, path in given.items() if path is not None}
    if files and url.scheme != "rediss":
        raise ConfigurationError(
            f"ledger: {url.text!r} has ca_file, cert_file or key_file, which only rediss:// has"
        )
    for path in files.values():
        if not path.is_file():
            raise ConfigurationError(f"ledger: there is no file {path}")
    return {name: str(path) for name, path in files.items()}
