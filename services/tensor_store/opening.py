"""Opens the store a URL names, without torch."""

from collections.abc import Callable, Mapping

from services.tensor_store.blob_store import BlobStore
from services.tensor_store.memory import MemoryBlobStore
from services.tensor_store.redis import RedisBlobStore
from services.tensor_store.shared_memory import SharedMemoryBlobStore
from services.tensor_store.store_url import StoreUrl
from triptych.domain.errors import ConfigurationError

_BACKENDS: Mapping[str, Callable[[StoreUrl], BlobStore]] = {
    "memory": MemoryBlobStore.from_url,
    "shm": SharedMemoryBlobStore.from_url,
    "redis": RedisBlobStore.from_url,
    "rediss": RedisBlobStore.from_url,
    "redis+unix": RedisBlobStore.from_url,
}


def open_blob_store(url: str) -> BlobStore:
    """Opens a store, for the caller to close.

    Args:
        url: for example "shm:///dev/shm/triptych?quota_bytes=1073741824", "memory:" or
            "redis://host:6379?username=triptych&password_file=/run/secrets/redis".

    Raises:
        ConfigurationError: the URL is not allowed, or its place cannot be used; says why.
    """
    address = StoreUrl.parse(url)
    if address.scheme not in _BACKENDS:
        allowed = ", ".join(_BACKENDS)
        raise ConfigurationError(
            f"store: {address.text!r} has the scheme {address.scheme!r}; allowed are {allowed}"
        )
    return _BACKENDS[address.scheme](address)
