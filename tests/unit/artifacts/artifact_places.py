"""The places that must keep artifacts alike."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.artifacts.artifact import ArtifactKey, ArtifactKind, StoredArtifact
from services.artifacts.artifact_store import ArtifactStore
from services.artifacts.directory import DirectoryPlace
from services.artifacts.memory import MemoryPlace
from services.artifacts.object_place import ObjectPlace
from services.artifacts.room import Limits
from services.artifacts.s3 import S3Place
from tests.s3_server import KEY_ID, SECRET, new_prefix, shared_s3_server

TTL_SECONDS = 60.0
QUOTA_BYTES = 1 << 20


@dataclass
class Clock:
    now: float = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Door:
    """One store under test.

    Attributes:
        store: where artifacts are put.
        reader: where they are got: another process's store in the same place, where there can be.
    """

    store: ArtifactStore
    reader: ArtifactStore
    place: ObjectPlace
    clock: Clock = field(default_factory=Clock)

    def put(
        self,
        data: bytes,
        artifact_id: str = "a",
        tenant: str = "tenant",
        kind: ArtifactKind = ArtifactKind.RESULT,
        limits: Limits | None = None,
    ) -> StoredArtifact:
        key = ArtifactKey(tenant, kind, artifact_id)
        with self.store.begin(key, ttl_seconds=TTL_SECONDS, limits=limits) as writer:
            for start in range(0, len(data), 1000):
                writer.write(data[start : start + 1000])
            return writer.commit("image/png", "described")

    def names(self) -> list[str]:
        """Of everything that the place holds, as artifacts or not."""
        return [name for part in ("bytes", "records") for name, _ in self.place.entries(part)]


def key_of(artifact_id: str = "a", tenant: str = "tenant") -> ArtifactKey:
    return ArtifactKey(tenant, ArtifactKind.RESULT, artifact_id)


@contextmanager
def memory_place(clock: Clock) -> Iterator[tuple[ObjectPlace, ObjectPlace]]:
    place = MemoryPlace()
    yield place, place


@contextmanager
def directory_place(clock: Clock) -> Iterator[tuple[ObjectPlace, ObjectPlace]]:
    with tempfile.TemporaryDirectory(prefix="artifacts-") as parent:
        root = Path(parent) / "store"
        # The files' own times are the system's.
        yield DirectoryPlace(root), DirectoryPlace(root)


@contextmanager
def s3_place(clock: Clock) -> Iterator[tuple[ObjectPlace, ObjectPlace]]:
    prefix = new_prefix()
    yield connected(prefix), connected(prefix)


def connected(prefix: str, endpoint: str | None = None) -> S3Place:
    server = shared_s3_server()
    return S3Place.connect(
        server.bucket,
        prefix,
        endpoint=endpoint or server.endpoint,
        region="us-east-1",
        credentials=(KEY_ID, SECRET),
        timeout_seconds=20,
    )


PLACES: Mapping[str, Callable[[Clock], object]] = {
    "memory": memory_place,
    "file": directory_place,
    "s3": s3_place,
}


@contextmanager
def door(place: str) -> Iterator[Door]:
    """A new store, empty."""
    clock = Clock()
    with PLACES[place](clock) as (first, second):
        store, reader = (
            ArtifactStore(each, quota_bytes=QUOTA_BYTES, clock=clock) for each in (first, second)
        )
        yield Door(store, store if first is second else reader, first, clock)
