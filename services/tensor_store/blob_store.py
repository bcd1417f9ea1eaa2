"""What a tensor store needs from the place that keeps its bytes. Knows no torch."""

import re
from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass

from services.domain.store_control import StoreControl
from services.domain.tensor_ref import IDENTIFIER, INLINE, TensorRef
from services.tensor_store.entry_store import EntryStore
from triptych.domain.errors import TensorRefused

_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class BlobName:
    """Where a blob is; every part is safe inside a path.

    Raises:
        TensorRefused: a part is malformed.
    """

    owner: str
    tenant: str
    request_id: str
    key: str

    @classmethod
    def of(cls, ref: TensorRef) -> "BlobName":
        """Where the tensors of a reference are."""
        return cls(ref.owner, ref.tenant, ref.request_id, ref.key)

    def __post_init__(self) -> None:
        check_request(self.tenant, self.request_id)
        for field, value in (("owner", self.owner), ("key", self.key)):
            if not IDENTIFIER.fullmatch(value):
                raise TensorRefused(f"{field}: {value!r} is not 32 hexadecimal digits")


def check_request(tenant: str, request_id: str) -> None:
    """Raises TensorRefused unless both are safe inside a path."""
    if not _TENANT.fullmatch(tenant):
        raise TensorRefused(f"tenant: {tenant!r} is not 1 to 64 of the characters A-Z a-z 0-9 _ -")
    if not IDENTIFIER.fullmatch(request_id):
        raise TensorRefused(f"request_id: {request_id!r} is not 32 hexadecimal digits")


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for one blob that nobody else can see yet.

    Attributes:
        buffer: writable, exactly as long as the blob; its contents are arbitrary at first.
    """

    name: BlobName
    buffer: memoryview


class BlobStore(StoreControl):
    """Keeps blobs for the processes that share it. Blocking and thread-safe.

    Buffers begin at a page, in every store, so that what is computed from them does not depend on
    which store they are in. A buffer is given back when the last view of it is gone: a view that
    outlives its context keeps memory, but never sees another blob's bytes.
    """

    verifies_reads: bool
    """Whether readers should compare checksums."""

    def check_own(self, store: str) -> None:
        """Raises TensorRefused unless a reference's store is this one."""
        if store != self.identity:
            raise TensorRefused(
                f"tensor reference: its store is {store}; this process has {self.identity}"
            )

    @abstractmethod
    def reserve(
        self, tenant: str, request_id: str, size_bytes: int, expire_time: float
    ) -> AbstractContextManager[Reservation]:
        """Room to write a blob into.

        Leaving the context publishes the blob atomically; leaving it by an exception discards it.

        Args:
            tenant: on whose behalf.
            request_id: for which request; `release_request` ends all of its blobs together.
            size_bytes: of the blob, at least 1.
            expire_time: seconds since the epoch, after which a sweep may remove it.

        Raises:
            StoreFull: the quota or the file system has no room.
            TensorRefused: the tenant or request id is malformed.
            Unavailable: the store is closed.
        """

    def keep(self, name: BlobName) -> BlobName:
        """Has a blob that this process published outlive it, until it expires or is released.

        Blobs of a server do anyway, and those of a process's own memory cannot.

        Returns:
            What it is called from now on.

        Raises:
            StoreFull: there is no room for more of such.
            TensorNotFound: it was released, where that is noticed.
            Unavailable: the store is closed.
        """
        return name

    @abstractmethod
    def open(self, name: BlobName, size_bytes: int) -> AbstractContextManager[memoryview]:
        """A published blob's bytes, not to be written to; they stay even if it is released.

        Raises:
            TensorNotFound: it was released, removed, or never there.
            TensorCorrupted: fewer bytes are there than the blob has.
        """

    @abstractmethod
    def release_blob(self, name: BlobName) -> bool:
        """Ends a blob's life, whoever wrote it; False if it had ended already."""

    def release(self, ref: TensorRef) -> bool:
        """See StoreControl. Nothing is known here of signatures: the caller vouches for them."""
        if ref.store == INLINE:
            return False
        self.check_own(ref.store)
        return self.release_blob(BlobName.of(ref))

    @abstractmethod
    def entries(self, limit_bytes: int, idle_seconds: float) -> EntryStore:
        """Bytes for a cache, beside the blobs: they count in no quota, and make room for blobs.

        All who share the store share them. They outlive the process that wrote them.

        Args:
            limit_bytes: what all of them together may have when this process has written.
            idle_seconds: what nobody used for so long is forgotten.

        Raises:
            ConfigurationError: the store does not let this process keep any.
        """
