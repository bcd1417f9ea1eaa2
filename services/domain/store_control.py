"""What can be done to a tensor store without touching a tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.domain.tensor_ref import TensorRef


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How full a store is.

    Attributes:
        identity: "<scheme>:<id>"; stages that work together must have the same.
        stored_count: sets of tensors that are stored now.
        pooled_bytes: memory kept for the next tensors.
        quota_bytes: what one process may hold; 0 where the store has no quota.
    """

    identity: str
    stored_count: int
    stored_bytes: int
    pooled_bytes: int
    quota_bytes: int


class Bound(StrEnum):
    """What limits a store: a process's quota, the file system it is on, or the server's memory."""

    QUOTA = "quota"
    FILE_SYSTEM = "file_system"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Fullness:
    """How near a store is to one of its limits.

    Attributes:
        used_bytes: of a quota, what the process that holds most has stored.
        limit_bytes: None for all there is.
    """

    bound: Bound
    used_bytes: int
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class EntryUsage:
    """How full a cache is.

    Attributes:
        count: entries, whoever wrote them.
        size_bytes: of all of them.
        limit_bytes: what this process keeps them within.
    """

    count: int
    size_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep removed: tensors past their time, and files of processes that are gone."""

    expired: int
    orphaned: int


class StoreControl(Protocol):
    """Blocking and thread-safe."""

    @property
    def identity(self) -> str:
        """`<scheme>:<id>`, equal for all who share the store."""
        ...

    def release(self, ref: TensorRef) -> bool:
        """Ends the tensors' life, whoever put them; False if it had ended, or they are inline.

        Raises:
            TensorRefused: the reference is forged, malformed, or of another store.
        """
        ...

    def release_request(self, tenant: str, request_id: str) -> int:
        """Releases all that a request stored, whoever wrote it; returns how many sets.

        For the request's owner alone: others may be at work with what is stored for it.
        """
        ...

    def sweep(self) -> SweepReport:
        """Removes what is expired or orphaned.

        Raises:
            StoreFull: this process has not even what it takes to look.
        """
        ...

    def stats(self) -> StoreStats:
        """How full it is."""
        ...

    def fullness(self) -> Sequence[Fullness]:
        """How near it is to each of its limits, as last seen: waits for no other host."""
        ...

    def cache_usage(self) -> EntryUsage | None:
        """How full the cache beside the tensors was at the last sweep; None if nobody knows."""
        return None

    def close(self) -> None:
        """Takes nothing more, and gives this process's memory back with all that is in it."""
        ...
