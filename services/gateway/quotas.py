"""How fast each tenant uses its quota."""

import time
from collections.abc import Callable

from services.gateway.access import Quota, Tenant
from triptych.domain.errors import InvalidRequest, QuotaExceeded, ResourceExhausted, Unavailable

_MINUTE_SECONDS = 60.0
_REQUESTS = "requests_per_minute"
_PIXEL_STEPS = "pixel_steps_per_minute"
_NOT_SERVED = frozenset({InvalidRequest.status, ResourceExhausted.status, Unavailable.status})


class TokenBucket:
    """Fills at a rate up to a minute's worth. A large request may overdraw it, and is paid off.

    Args:
        per_minute: how fast it fills, and how much it holds.
        now: seconds, of a clock that never goes back.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self._per_minute = per_minute
        self._level = per_minute
        self._filled = now

    def wait_seconds(self, now: float) -> float:
        """How long until something may be taken; 0 for now."""
        self._fill(now)
        # As much as one may take at least: a level of nothing is no room.
        lacking = min(1.0, self._per_minute) - self._level
        return max(0.0, lacking / self._per_minute * _MINUTE_SECONDS)

    def take(self, amount: float, now: float) -> None:
        """Takes an amount, however large."""
        self._fill(now)
        self._level -= amount

    def give_back(self, amount: float) -> None:
        """Undoes a `take`."""
        self._level = min(self._per_minute, self._level + amount)

    def _fill(self, now: float) -> None:
        grown = (now - self._filled) / _MINUTE_SECONDS * self._per_minute
        self._level = min(self._per_minute, self._level + grown)
        self._filled = now


class _Account:
    def __init__(self, quota: Quota, now: float) -> None:
        self.quota = quota
        self.buckets = {
            name: TokenBucket(rate, now)
            for name, rate in (
                (_REQUESTS, quota.requests_per_minute),
                (_PIXEL_STEPS, quota.pixel_steps_per_minute),
            )
            if rate is not None
        }


class Quotas:
    """Admits jobs at the rates of their tenants' quotas. For one event loop; per gateway.

    How many jobs a tenant has at once is counted by the jobs' ledger, for all gateways together.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def check(self, tenant: Tenant) -> None:
        """Raises QuotaExceeded if no job of the tenant's would be admitted now, however small."""
        now = self._clock()
        self._check(self._account(tenant, now), now)

    def take(self, tenant: Tenant, pixel_steps: int) -> None:
        """Takes what one job needs.

        Args:
            tenant: whose job it is.
            pixel_steps: what it will take.

        Raises:
            QuotaExceeded: the tenant has used up its quota; says which and when to come again.
        """
        now = self._clock()
        account = self._account(tenant, now)
        self._check(account, now)
        for name, bucket in account.buckets.items():
            bucket.take(1 if name == _REQUESTS else pixel_steps, now)

    def undo(self, tenant: Tenant, pixel_steps: int) -> None:
        """Gives all of it back: there is no new job."""
        for name, bucket in self._account(tenant, self._clock()).buckets.items():
            bucket.give_back(1 if name == _REQUESTS else pixel_steps)

    def give_back(self, tenant: Tenant, pixel_steps: int, status: str) -> None:
        """Gives pixel steps back that a stage refused, or the cluster was too full or broken for.

        The request is not given back: whoever repeats it in haste is still held to the rate.

        Args:
            tenant: whose job failed.
            pixel_steps: what was taken for it.
            status: canonical code of its failure.
        """
        buckets = self._account(tenant, self._clock()).buckets
        if status in _NOT_SERVED and _PIXEL_STEPS in buckets:
            buckets[_PIXEL_STEPS].give_back(pixel_steps)

    def _account(self, tenant: Tenant, now: float) -> _Account:
        return self._accounts.setdefault(tenant.name, _Account(tenant.quota, now))

    def _check(self, account: _Account, now: float) -> None:
        waits = [(bucket.wait_seconds(now), name) for name, bucket in account.buckets.items()]
        # The longest of them: whoever came again sooner would only be refused by the next.
        wait, name = max(waits, default=(0.0, ""))
        if wait > 0:
            raise QuotaExceeded(name, getattr(account.quota, name), retry_after_seconds=wait)
