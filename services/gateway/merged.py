"""Events of several sources as one stream."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TypeVar

E = TypeVar("E")


async def merged(sources: Sequence[AsyncGenerator[E, None]]) -> AsyncGenerator[E, None]:
    """Yields each event as soon as it is there; the first failure ends all of them."""
    async with AsyncExitStack() as sources_open:
        for source in sources:
            await sources_open.enter_async_context(aclosing(source))
        waiting = {asyncio.ensure_future(anext(source, None)): source for source in sources}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                # In the order of the sources, whichever the loop noticed first.
                for task in [task for task in waiting if task in done]:
                    source, event = waiting.pop(task), task.result()
                    if event is not None:
                        waiting[asyncio.ensure_future(anext(source, None))] = source
                        yield event
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
