"""Opens the jobs' ledger that a URL names."""

from typing import Final

from services.jobs.ledger import JobLedger
from services.jobs.memory_ledger import MemoryLedger
from services.jobs.retention import Retention
from services.tensor_store.store_url import StoreOptions, StoreUrl
from triptych.domain.errors import ConfigurationError

MEMORY: Final = "memory"
_SERVERS: Final = ("redis", "rediss", "redis+unix")


async def open_ledger(url: str, retention: Retention | None = None) -> JobLedger:
    """Opens a ledger, for the caller to close.

    Args:
        url: "memory:", or for example "redis://host:6379?fsync=always".
        retention: how much is kept, and for how long.

    Raises:
        ConfigurationError: the URL is not allowed, or its server cannot keep jobs; says why.
    """
    try:
        return await _opened(StoreUrl.parse(url), url, retention)
    except ConfigurationError as error:
        # The parser of URLs calls every store one.
        said = str(error).removeprefix("store: ").removeprefix("ledger: ")
        raise ConfigurationError(f"jobs: {said}") from error


async def _opened(address: StoreUrl, url: str, retention: Retention | None) -> JobLedger:
    if address.scheme == MEMORY:
        address.refuse_location()
        address.options(StoreOptions)
        return MemoryLedger(retention)
    if address.scheme not in _SERVERS:
        raise ConfigurationError(
            f"{address.text!r} has the scheme {address.scheme!r};"
            f" allowed are {', '.join((MEMORY, *_SERVERS))}"
        )
    try:
        from services.jobs.redis_ledger import RedisLedger
    except ImportError as error:
        raise ConfigurationError(
            f"{address.scheme}:// needs the package redis; install triptych[redis]"
        ) from error
    return await RedisLedger.open(url, retention)
