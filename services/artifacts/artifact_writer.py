"""One artifact on its way into a store."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

import xxhash

from services.artifacts.artifact import ArtifactKey, StoredArtifact
from services.artifacts.object_place import Draft
from services.artifacts.room import Limits, charge

if TYPE_CHECKING:
    from services.artifacts.artifact_store import ArtifactStore


class ArtifactWriter:
    """Takes bytes in chunks; the artifact is there once `commit` returns. For one caller at a time.

    A context manager: what was not committed when its block is left is forgotten.

    Args:
        store: where it will be.
        draft: what it is until then.
        key: what it will be named by.
        ttl_seconds: how long it is kept.
        limits: what its tenant may take.
    """

    def __init__(
        self,
        store: "ArtifactStore",
        draft: Draft,
        key: ArtifactKey,
        ttl_seconds: float,
        limits: Limits,
    ) -> None:
        self._store = store
        self._draft = draft
        self._key = key
        self._ttl_seconds = ttl_seconds
        self._limits = limits
        self._hash = xxhash.xxh3_64()
        self._size_bytes = 0
        self._reserved_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes.

        Raises:
            QuotaExceeded: the tenant's quota is used up; names it.
            ResourceExhausted: the store is full.
            Unavailable: the place cannot be reached.
        """
        self._reserve(charge(self._size_bytes + len(data)))
        self._draft.write(data)
        self._hash.update(data)
        self._size_bytes += len(data)

    def content(self) -> bytes:
        """A copy of all that was written."""
        return self._draft.content()

    def commit(self, content_type: str, description: str = "") -> StoredArtifact:
        """Makes it an artifact.

        Args:
            content_type: a MIME type.
            description: for its readers, at most 16,384 characters.

        Raises:
            AlreadyExists: the tenant has an artifact of this id; that one stays as it is.
            QuotaExceeded, ResourceExhausted, Unavailable: see `write`.
        """
        self._reserve(charge(self._size_bytes))
        name, expires_at = self._store.place_name(self._key, self._ttl_seconds)
        record = StoredArtifact(
            tenant=self._key.tenant,
            kind=self._key.kind,
            artifact_id=self._key.artifact_id,
            content_type=content_type,
            size_bytes=self._size_bytes,
            checksum_xxh3=self._hash.intdigest(),
            expires_at=expires_at,
            description=description,
            place_name=name,
        )
        self._draft.keep(name, content_type)
        self._store.keep(record, self._reserved_bytes)
        self._reserved_bytes = 0
        return record

    def discard(self) -> None:
        """Forgets it, unless it was committed. Idempotent."""
        self._draft.discard()
        self._store.give_back(self._key.tenant, self._reserved_bytes)
        self._reserved_bytes = 0

    def _reserve(self, size_bytes: int) -> None:
        """Has room reserved for so many bytes altogether."""
        more = size_bytes - self._reserved_bytes
        if more > 0:
            self._store.reserve(self._key.tenant, more, self._limits)
            self._reserved_bytes += more
