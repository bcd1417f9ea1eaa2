"""Keeps a tensor store clean for as long as its process lives."""

import asyncio

from services.observability.logs import get_logger
from services.rpc.store_calls import StoreCalls
from triptych.domain.errors import TriptychError

_log = get_logger(__name__)


async def sweep_forever(store: StoreCalls, pause_seconds: float) -> None:
    """Sweeps again and again; runs until it is cancelled or a sweep fails that should not."""
    while True:
        try:
            report = await store.sweep()
        except TriptychError as error:
            # What lacks now may be there for the next one; requests need not end with it.
            _log.warning("not swept", cause=str(error))
        else:
            if report.expired or report.orphaned:
                _log.info("swept", expired=report.expired, orphaned=report.orphaned)
        await asyncio.sleep(pause_seconds)
