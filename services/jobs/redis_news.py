"""News of a ledger's jobs from a Redis server, for those who wait in this process."""

import asyncio
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.jobs.wakeups import Wakeups
from services.observability.logs import get_logger

_PAUSE_SECONDS: Final = 1.0

_log = get_logger(__name__)


class RedisNews:
    """Wakes those who wait by what is published, as long as it is open. For one event loop.

    Args:
        client: of the server.
        channel: where names are published.
        wakeups: of those who wait for names.
    """

    def __init__(self, client: Redis, channel: str, wakeups: Wakeups) -> None:
        self._client = client
        self._channel = channel
        self._wakeups = wakeups
        self._hearing = asyncio.create_task(self._hear())

    async def close(self) -> None:
        """Hears no more."""
        while not self._hearing.done():
            # Before Python 3.12 what the library waits by loses a cancellation now and then.
            self._hearing.cancel()
            await asyncio.wait({self._hearing}, timeout=_PAUSE_SECONDS / 10)

    async def _hear(self) -> None:
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=False) as channel:
                    await channel.subscribe(self._channel)
                    while True:
                        message = await channel.get_message(timeout=_PAUSE_SECONDS)
                        if message is None:
                            continue
                        if message["type"] == "message":
                            self._wakeups.wake(message["data"].decode())
                        else:
                            # Subscribed, perhaps again: what was said before was not heard.
                            self._wakeups.wake_all()
            except RedisError as error:
                _log.warning("hears no news of jobs", cause=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
