"""Keeps a ledger clean for as long as its process lives."""

import asyncio
from typing import NoReturn

from services.jobs.ledger import JobLedger
from services.observability.logs import get_logger
from triptych.domain.errors import LedgerFull, LedgerUnavailable

_log = get_logger(__name__)


async def sweep_forever(ledger: JobLedger, pause_seconds: float) -> NoReturn:
    """Sweeps again and again, until it is cancelled or a sweep fails that should not.

    Of those who share a ledger all may sweep it: what one let go is not there for the next.
    """
    while True:
        try:
            gone = await ledger.sweep()
        except (LedgerUnavailable, LedgerFull) as error:
            # It may be there for the next one; nobody need end with it.
            _log.warning("jobs not swept", cause=str(error))
        else:
            if gone:
                _log.info("jobs swept", gone=gone)
        await asyncio.sleep(pause_seconds)
