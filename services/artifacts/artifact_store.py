"""Artifacts by tenant, for a time: what a gateway stores and hands out."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from pydantic import ValidationError

from services.artifacts.artifact import ArtifactKey, ArtifactKind, StoredArtifact
from services.artifacts.artifact_writer import ArtifactWriter
from services.artifacts.object_place import ObjectMissing, ObjectPlace
from services.artifacts.room import REFRESH_SECONDS, Limits, Room, charge
from triptych.domain.errors import (
    AlreadyExists,
    ArtifactNotFound,
    OutOfRange,
    ResourceExhausted,
    TriptychError,
)

_BYTES: Final = "bytes"
_RECORDS: Final = "records"
# A store that is full is looked through for what has expired, but not by every writer it refuses.
_SWEEP_PAUSE_SECONDS: Final = 1.0


class ArtifactStore:
    """Keeps artifacts in a place, each whole or not at all. Blocking and thread-safe.

    An artifact is two objects: its bytes, under a name that begins with the second it expires in,
    and a record that names them. It is there once its record is. What a killed process left without
    a record expires all the same.

    A tenant's name is a part of every path, and ids are looked up below it alone: no id leads to
    another tenant's artifact.

    Every method may raise Unavailable where the place is outside this process.

    Args:
        place: where objects are.
        quota_bytes: of all tenants together; None for as much as the place has.
        clock: seconds of the epoch.
    """

    def __init__(
        self,
        place: ObjectPlace,
        *,
        quota_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.quota_bytes = quota_bytes
        self._place = place
        self._clock = clock
        refresh = REFRESH_SECONDS if place.shared else float("inf")
        self._room = Room(self._count, quota_bytes, refresh, clock)
        self._sweeping = threading.Lock()
        self._swept_at = float("-inf")

    def begin(
        self, key: ArtifactKey, *, ttl_seconds: float, limits: Limits | None = None
    ) -> ArtifactWriter:
        """Opens an artifact for writing; leaving the writer's block without `commit` forgets it.

        Args:
            key: a new one.
            ttl_seconds: how long it is kept, from its commit on.
            limits: what its tenant may take.

        Raises:
            ValueError: the key is none that an artifact may have.
        """
        if not key.names_something:
            raise ValueError(f"artifact: {key} is no key of an artifact")
        return ArtifactWriter(self, self._place.draft(), key, ttl_seconds, limits or Limits())

    def stat(self, key: ArtifactKey) -> StoredArtifact:
        """What is known of an artifact.

        Raises:
            ArtifactNotFound: there is none of this tenant's, or no longer.
        """
        record = self._record(key)
        if record is None or record.key != key or record.expires_at <= self._clock():
            raise ArtifactNotFound(key.artifact_id)
        return record

    def read(
        self, key: ArtifactKey, offset: int = 0
    ) -> tuple[StoredArtifact, Iterator[bytes | memoryview]]:
        """What is known of an artifact, and its bytes from an offset on, in chunks of up to 1 MiB.

        The chunks end with ArtifactNotFound if the artifact is removed meanwhile and the place does
        not keep it for its readers.

        Raises:
            ArtifactNotFound: see `stat`.
            OutOfRange: the offset is beyond its end.
        """
        record = self.stat(key)
        if offset > record.size_bytes:
            raise OutOfRange(
                f"offset_bytes: is {offset}; the artifact has {record.size_bytes} bytes"
            )
        return record, self._chunks(record, offset)

    def url(self, key: ArtifactKey, seconds: float) -> str | None:
        """A URL that anybody may read it by for so long, or until it expires; None without such.

        Raises:
            ArtifactNotFound: see `stat`.
        """
        record = self.stat(key)
        left = record.expires_at - self._clock()
        return self._place.url(record.place_name, max(1.0, min(seconds, left)))

    def delete(self, key: ArtifactKey) -> bool:
        """Removes an artifact; False if there is none."""
        record = self._record(key)
        if record is None:
            return False
        # The record first: what has none is removed when it expires, at the latest.
        self._place.delete(_record_name(key))
        self._place.delete(record.place_name)
        self._room.recount()
        return True

    def list(self, tenant: str) -> Iterator[StoredArtifact]:
        """A tenant's artifacts that have not expired, in any order."""
        for name, _ in self._place.entries(f"{_BYTES}/{tenant}"):
            key, expires_at = _parsed(name)
            if expires_at > self._clock():
                # What is being written has no record yet.
                with suppress(ArtifactNotFound):
                    record = self.stat(key)
                    if record.place_name == name:
                        yield record

    def sweep(self) -> int:
        """Removes what has expired, whoever wrote it; returns how many artifacts."""
        removed = 0
        for name, _ in self._place.entries(_BYTES):
            key, expires_at = _parsed(name)
            if expires_at > self._clock():
                continue
            record = self._record(key)
            if record is not None and record.place_name == name:
                self._place.delete(_record_name(key))
                removed += 1
            self._place.delete(name)
        self._place.sweep()
        self._room.recount()
        return removed

    def reserve(self, tenant: str, size_bytes: int, limits: Limits) -> None:
        """Takes room for bytes that a writer of this store is given; for ArtifactWriter.

        Raises:
            QuotaExceeded, ResourceExhausted: there is none, even without what has expired.
        """
        try:
            self._room.reserve(tenant, size_bytes, limits)
        except ResourceExhausted:
            if not self._swept_now():
                raise
            self._room.reserve(tenant, size_bytes, limits)

    def give_back(self, tenant: str, size_bytes: int) -> None:
        """Gives back room that nothing was kept in; for ArtifactWriter."""
        self._room.give_back(tenant, size_bytes)

    def keep(self, record: StoredArtifact, size_bytes: int) -> None:
        """Makes an artifact of bytes that are in the place already; for ArtifactWriter.

        Raises:
            AlreadyExists: the tenant has one of this id.
        """
        data = record.model_dump_json().encode()
        try:
            self._place.create(_record_name(record.key), data, "application/json")
        except AlreadyExists:
            # A request to the place may be repeated after it was carried out: then it is our own.
            if self._record(record.key) != record:
                self._place.delete(record.place_name)
                raise
        self._room.keep(record.tenant, size_bytes)

    def place_name(self, key: ArtifactKey, ttl_seconds: float) -> tuple[str, float]:
        """A new name for bytes, and when they expire; for ArtifactWriter."""
        expires_at = self._clock() + ttl_seconds
        # Later rather than earlier: a second too long is no harm.
        second = int(expires_at) + 1
        unique = secrets.token_hex(8)
        name = f"{_BYTES}/{key.tenant}/{second:012d}.{unique}.{key.kind}.{key.artifact_id}"
        return name, expires_at

    def _swept_now(self) -> bool:
        """Sweeps, unless that was done a moment ago; whether it did."""
        with self._sweeping:
            now = self._clock()
            if now - self._swept_at < _SWEEP_PAUSE_SECONDS:
                return False
            self._swept_at = now
            self.sweep()
            return True

    def _record(self, key: ArtifactKey) -> StoredArtifact | None:
        if not key.names_something:
            return None
        try:
            data = b"".join(self._place.read(_record_name(key)))
        except ObjectMissing:
            return None
        try:
            return StoredArtifact.model_validate_json(data)
        except ValidationError as error:
            raise TriptychError(
                f"artifacts: the record of {key.artifact_id!r} is damaged or of another release"
            ) from error

    def _chunks(self, record: StoredArtifact, offset: int) -> Iterator[bytes | memoryview]:
        read = offset
        try:
            for chunk in self._place.read(record.place_name, offset):
                read += len(chunk)
                yield chunk
        except ObjectMissing as error:
            raise ArtifactNotFound(record.artifact_id) from error
        if read != record.size_bytes:
            raise TriptychError(
                f"artifacts: {record.artifact_id!r} has {read} bytes; its record says"
                f" {record.size_bytes}"
            )

    def _count(self, tenant: str | None) -> int:
        prefix = _BYTES if tenant is None else f"{_BYTES}/{tenant}"
        return sum(charge(size_bytes) for _, size_bytes in self._place.entries(prefix))


def _record_name(key: ArtifactKey) -> str:
    return f"{_RECORDS}/{key.tenant}/{key.kind}.{key.artifact_id}"


def _parsed(name: str) -> tuple[ArtifactKey, float]:
    """Whose bytes an object is, and when they expire."""
    _, tenant, own = name.split("/")
    second, _, kind, artifact_id = own.split(".", 3)
    return ArtifactKey(tenant, ArtifactKind(kind), artifact_id), float(second)
