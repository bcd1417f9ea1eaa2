"""Runs a coroutine that signals end the orderly way."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Final, TypeVar

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Coroutine[None, None, T]) -> T:
    """Runs `main`, which every SIGINT, SIGTERM or SIGHUP cancels once.

    The first one starts the clean-up of all open `async with` blocks; another cuts its waits short.

    Raises:
        asyncio.CancelledError: `main` did not stop the cancellation.
    """
    return asyncio.run(_until_signalled(main))


async def _until_signalled(main: Coroutine[None, None, T]) -> T:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in _SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    return await main
