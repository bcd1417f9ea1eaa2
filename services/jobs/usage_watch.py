"""What a ledger holds, as whoever reads metrics is told."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final, NoReturn

from services.jobs.ledger import JobLedger, LedgerUsage
from services.jobs.retention import Retention
from services.observability import metrics
from services.observability.metrics import Reading
from triptych.domain.errors import LedgerFull, LedgerUnavailable

LOOK_SECONDS: Final = 5.0


class UsageWatch:
    """Looks at a ledger again and again, for metrics that are read at any time and by any thread.

    All who share a ledger say the same of it.

    Args:
        ledger: whose jobs.
        retention: what it may hold.
    """

    def __init__(self, ledger: JobLedger, retention: Retention) -> None:
        self._ledger = ledger
        self._limit_bytes = retention.max_bytes
        # None before the first look, and while the ledger is away.
        self._held: LedgerUsage | None = None
        self._reachable = True

    async def run(self, pause_seconds: float = LOOK_SECONDS) -> NoReturn:
        """Exposes it until it is cancelled."""
        with ExitStack() as exits:
            exits.enter_context(metrics.LEDGER_REACHABLE.watching(self._reached))
            exits.enter_context(metrics.LEDGER_JOBS.watching(self._jobs))
            exits.enter_context(metrics.LEDGER_USED_BYTES.watching(self._used))
            exits.enter_context(metrics.LEDGER_LIMIT_BYTES.watching(self._limit))
            while True:
                await self._look()
                await asyncio.sleep(pause_seconds)

    async def _look(self) -> None:
        try:
            self._held = await self._ledger.usage()
        except (LedgerUnavailable, LedgerFull):
            # Whoever has work to do with it says so in the log.
            self._held = None
        self._reachable = self._held is not None

    def _reached(self) -> Iterator[Reading]:
        yield int(self._reachable), {}

    def _jobs(self) -> Iterator[Reading]:
        if (held := self._held) is not None:
            yield held.queued, {"state": "queued"}
            yield held.held, {"state": "held"}
            yield held.ended, {"state": "ended"}
            yield held.tombstones, {"state": "tombstone"}

    def _used(self) -> Iterator[Reading]:
        if (held := self._held) is not None:
            yield held.size_bytes, {}

    def _limit(self) -> Iterator[Reading]:
        yield self._limit_bytes, {}
