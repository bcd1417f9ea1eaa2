"""How much room is taken, by each tenant and by all of them."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from triptych.domain.errors import QuotaExceeded, ResourceExhausted

REFRESH_SECONDS: Final = 10.0
"""How old what is known of other processes' artifacts may be."""

LEAST_BYTES: Final = 4096
"""What keeping an artifact takes beside its bytes, so that tiny ones cannot be piled up."""

_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be taken; None for any amount.

    Attributes:
        tenant_bytes: by the tenant.
        share: the part of each limit, the store's included, that this artifact may fill up to.
    """

    tenant_bytes: int | None = None
    share: float = 1.0


@dataclass(slots=True)
class _Account:
    """Bytes under one prefix: kept as they were last counted and changed since, and arriving."""

    kept_bytes: int = 0
    arriving_bytes: int = 0
    counted_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class Room:
    """Counts what is kept, by a listing, and what is arriving in this process. Thread-safe.

    What other processes keep is known from the last listing; what they are only writing is not.

    Args:
        count: what is kept of one tenant, or of all for None.
        quota_bytes: of all tenants together; None for any amount.
        refresh_seconds: how long a count stays good enough.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        count: Callable[[str | None], int],
        quota_bytes: int | None,
        refresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._quota_bytes = quota_bytes
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[str | None, _Account] = {}

    def reserve(self, tenant: str, size_bytes: int, limits: Limits) -> None:
        """Takes room for bytes that arrive.

        Raises:
            QuotaExceeded: the tenant's own limit does not allow it.
            ResourceExhausted: the store's does not.
        """
        self._take(tenant, size_bytes, limits.tenant_bytes, limits.share)
        try:
            self._take(None, size_bytes, self._quota_bytes, limits.share)
        except ResourceExhausted:
            self._settle(tenant, -size_bytes, 0)
            raise

    def give_back(self, tenant: str, size_bytes: int) -> None:
        """Gives back room for bytes that came to nothing."""
        for account in (tenant, None):
            self._settle(account, -size_bytes, 0)

    def keep(self, tenant: str, size_bytes: int) -> None:
        """Has bytes that arrived count as kept."""
        for account in (tenant, None):
            self._settle(account, -size_bytes, size_bytes)

    def recount(self) -> None:
        """Has everything counted again when it is next asked for: something was removed."""
        with self._lock:
            accounts = [*self._accounts.values()]
        for account in accounts:
            with account.lock:
                account.counted_at = float("-inf")

    def _take(self, tenant: str | None, size_bytes: int, limit: int | None, share: float) -> None:
        account = self._account(tenant)
        with account.lock:
            if limit is not None:
                self._refresh(tenant, account)
                if account.kept_bytes + account.arriving_bytes + size_bytes > limit * share:
                    raise _full(tenant, limit)
            account.arriving_bytes += size_bytes

    def _settle(self, tenant: str | None, arriving: int, kept: int) -> None:
        account = self._account(tenant)
        with account.lock:
            account.arriving_bytes += arriving
            account.kept_bytes += kept

    def _refresh(self, tenant: str | None, account: _Account) -> None:
        now = self._clock()
        if now - account.counted_at >= self._refresh_seconds:
            account.kept_bytes = self._count(tenant)
            account.counted_at = now

    def _account(self, tenant: str | None) -> _Account:
        with self._lock:
            return self._accounts.setdefault(tenant, _Account())


def charge(size_bytes: int) -> int:
    """What an artifact of so many bytes takes."""
    return max(size_bytes, LEAST_BYTES)


def _full(tenant: str | None, limit: int) -> ResourceExhausted:
    if tenant is not None:
        return QuotaExceeded("artifact_bytes", limit, retry_after_seconds=_RETRY_SECONDS)
    return ResourceExhausted(
        f"artifacts: quota_bytes of the store is {limit} and used up; repeat the request later"
    )
