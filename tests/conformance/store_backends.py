"""The tensor stores that must pass the same tests."""

import atexit
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from services.domain.tensor_ref import MAX_INLINE_BYTES, Seal, TensorRef
from services.tensor_store.blob_store import BlobStore
from services.tensor_store.memory import MemoryBlobStore, MemoryOptions
from services.tensor_store.redis import RedisBlobStore
from services.tensor_store.redis_server import RedisOptions, RedisServer
from services.tensor_store.shared_memory import SharedMemoryBlobStore, SharedMemoryOptions
from services.tensor_store.store_url import StoreUrl
from services.tensor_store.tensor_store import TensorStore
from tests.valkey_server import DEBIANS, KeyValueServer, key_value_server
from triptych.domain.errors import TriptychError

MIB = 1 << 20
QUOTA_BYTES = 8 * MIB
TTL_SECONDS = 60.0
TENANT, REQUEST, OTHER_REQUEST = "tenant", "a" * 32, "b" * 32
SEAL = Seal(SecretStr("s" * 32))

Tensors = Mapping[str, torch.Tensor]


@dataclass
class Clock:
    now: float = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Backend:
    """One store under test.

    Attributes:
        store: where tensors are put.
        reader: where they are got: another door to the same store, where there can be one.
        spoil: changes one stored byte, counted from the end; returns the reference to read it by.
    """

    store: TensorStore
    reader: TensorStore
    spoil: Callable[[TensorRef, int], TensorRef]
    clock: Clock = field(default_factory=Clock)

    def put(self, tensors: Tensors, request_id: str = REQUEST) -> TensorRef:
        return self.store.put(tensors, tenant=TENANT, request_id=request_id)

    def got(self, ref: TensorRef, request_id: str = REQUEST) -> dict[str, torch.Tensor]:
        with self.reader.get(ref, tenant=TENANT, request_id=request_id) as tensors:
            return {name: tensor.clone() for name, tensor in tensors.items()}

    def error(self, ref: TensorRef, tenant: str = TENANT, request: str = REQUEST) -> TriptychError:
        with (
            pytest.raises(TriptychError) as caught,
            self.reader.get(ref, tenant=tenant, request_id=request),
        ):
            pytest.fail("the tensors were handed out")
        return caught.value


def over(blobs: BlobStore, clock: Clock, inline_bytes: int = 0) -> TensorStore:
    return TensorStore(blobs, SEAL, ttl_seconds=TTL_SECONDS, inline_bytes=inline_bytes, clock=clock)


def inline_backend() -> Iterator[Backend]:
    def spoil(ref: TensorRef, position: int) -> TensorRef:
        blob = bytearray(ref.inline_blob)
        blob[-position] ^= 1
        return ref.model_copy(update={"inline_blob": bytes(blob)})

    clock = Clock()
    with closing(over(MemoryBlobStore(MemoryOptions()), clock, MAX_INLINE_BYTES)) as store:
        yield Backend(store, over(MemoryBlobStore(MemoryOptions()), clock), spoil, clock)


def memory_backend() -> Iterator[Backend]:
    clock = Clock()
    blobs = MemoryBlobStore(MemoryOptions(quota_bytes=QUOTA_BYTES, verify=True), clock=clock)

    def spoil(ref: TensorRef, position: int) -> TensorRef:
        (blob,) = blobs._blobs.values()
        memoryview(blob.buffer.obj)[len(blob.buffer) - position] ^= 1
        return ref

    with closing(over(blobs, clock)) as store:
        yield Backend(store, store, spoil, clock)


def shm_backend() -> Iterator[Backend]:
    with tempfile.TemporaryDirectory(prefix="triptych-test-", dir="/dev/shm") as parent:
        yield from shm_backend_in(Path(parent) / "store")


def shm_backend_in(root: Path) -> Iterator[Backend]:
    clock = Clock()

    def spoil(ref: TensorRef, position: int) -> TensorRef:
        (path,) = root.glob(f"*/live/*.{ref.key}")
        blob = bytearray(path.read_bytes())
        blob[ref.size_bytes - position] ^= 1
        path.write_bytes(blob)
        return ref

    def opened() -> TensorStore:
        options = SharedMemoryOptions(quota_bytes=QUOTA_BYTES, verify=True)
        return over(SharedMemoryBlobStore(root, options, clock=clock), clock)

    with closing(opened()) as store, closing(opened()) as reader:
        yield Backend(store, reader, spoil, clock)
    assert [path.name for path in root.iterdir()] == ["id"]


@cache
def shared_server(binary: Path | None) -> KeyValueServer:
    """One server for all tests, each of which leaves nothing behind."""
    exits = ExitStack()
    atexit.register(exits.close)
    return exits.enter_context(key_value_server(binary=binary))


def redis_backend(binary: Path | None = None) -> Iterator[Backend]:
    clock, server = Clock(), shared_server(binary)
    client = server.client()

    def spoil(ref: TensorRef, position: int) -> TensorRef:
        (key,) = client.keys(f"*:blob:*:{ref.key}")
        blob = bytearray(client.hget(key, "0") or b"")
        blob[ref.size_bytes - position] ^= 1
        client.hset(key, "0", bytes(blob))
        return ref

    def opened() -> TensorStore:
        options = RedisOptions()
        connected = RedisServer(StoreUrl.parse(server.url), options)
        return over(RedisBlobStore(connected, options, clock=clock), clock)

    with closing(opened()) as store, closing(opened()) as reader:
        yield Backend(store, reader, spoil, clock)
    client.flushdb()


LOCAL: dict[str, Callable[[], Iterator[Backend]]] = {"memory": memory_backend, "shm": shm_backend}
STORING = {**LOCAL, "valkey": redis_backend}
if DEBIANS is not None:
    STORING["redis"] = partial(redis_backend, DEBIANS)
BACKENDS = {"inline": inline_backend, **STORING}
