import asyncio

import pytest

from services.domain.store_control import SweepReport
from services.rpc.store_calls import StoreCalls
from services.rpc.sweeper import sweep_forever
from triptych.domain.errors import StoreFull


class Store:
    """Cannot be swept at first, and is broken in the end."""

    def __init__(self) -> None:
        self.sweeps = 0

    def sweep(self) -> SweepReport:
        self.sweeps += 1
        if self.sweeps == 1:
            raise StoreFull("tensor store: Too many open files")
        if self.sweeps == 3:
            raise PermissionError
        return SweepReport(expired=1, orphaned=0)


async def test_what_cannot_be_swept_now_is_swept_later() -> None:
    store = Store()
    with pytest.raises(PermissionError):
        async with asyncio.timeout(30):
            await sweep_forever(StoreCalls(store), 0.0)  # type: ignore[arg-type]
    assert store.sweeps == 3
