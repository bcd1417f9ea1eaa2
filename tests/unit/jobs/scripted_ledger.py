"""A ledger that is slow, or away, as a test says."""

import asyncio
from collections.abc import Callable
from typing import Any

from services.jobs.ledger import Claim, JobLedger
from services.jobs.memory_ledger import MemoryLedger
from tests.unit.jobs.benches import LEASE_SECONDS, claimed, submission
from triptych.domain.errors import LedgerUnavailable

EPOCH = 1_700_000_000.0


class ScriptedLedger:
    """Passes on what it is asked, by the clock of the event loop.

    Attributes:
        kept: what is in it, without delay.
        seconds: how long it takes to do something.
        answer_seconds: how long it takes to say so afterwards, by method.
        away_until: before which it does not answer.
        calls: the methods it was asked for, but `wait_lost`.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._loop = asyncio.get_running_loop()
        self.kept: JobLedger = MemoryLedger(clock=lambda: EPOCH + self._loop.time())
        self.seconds = seconds
        self.answer_seconds: dict[str, float] = {}
        self.away_until = 0.0
        self.calls: list[str] = []

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method == "wait_lost":
            return self._wait_lost

        async def asked(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(method)
            await asyncio.sleep(self.seconds)
            self._check_there()
            answer = await getattr(self.kept, method)(*args, **kwargs)
            await asyncio.sleep(self.answer_seconds.get(method, 0.0))
            return answer

        return asked

    async def _wait_lost(self, claim: Claim) -> None:
        self._check_there()
        await self.kept.wait_lost(claim)

    def _check_there(self) -> None:
        if self._loop.time() < self.away_until:
            raise LedgerUnavailable("the ledger is away")

    async def claimed(self) -> Claim:
        """A job's claim."""
        await self.kept.submit(submission())
        return await claimed(self.kept)

    async def rival(self) -> Claim | None:
        """What another worker is given."""
        return await self.kept.claim("rival", LEASE_SECONDS)
