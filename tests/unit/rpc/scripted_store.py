"""A tensor store that holds nothing and remembers what it was told."""

from services.domain.store_control import EntryUsage, Fullness, StoreStats, SweepReport
from services.domain.tensor_ref import TensorRef
from tests.unit.domain.examples import STORE

STATS = StoreStats(STORE, stored_count=1, stored_bytes=2, pooled_bytes=3, quota_bytes=2**40)


class ScriptedStore:
    """For one test.

    Attributes:
        told: what it was told, in order.
        sweep_fails: raised by the next sweep.
        full: how near it is to its limits.
        cached: how full its cache is.
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self.sweep_fails: BaseException | None = None
        self.full: tuple[Fullness, ...] = ()
        self.cached: EntryUsage | None = None

    @property
    def identity(self) -> str:
        return STORE

    def release(self, ref: TensorRef) -> bool:
        self.told.append(f"release {ref.key}")
        return True

    def release_request(self, tenant: str, request_id: str) -> int:
        self.told.append(f"release {tenant} {request_id}")
        return 2

    def sweep(self) -> SweepReport:
        self.told.append("sweep")
        if self.sweep_fails is not None:
            failure, self.sweep_fails = self.sweep_fails, None
            raise failure
        return SweepReport(expired=0, orphaned=0)

    def stats(self) -> StoreStats:
        return STATS

    def fullness(self) -> tuple[Fullness, ...]:
        return self.full

    def cache_usage(self) -> EntryUsage | None:
        return self.cached

    def close(self) -> None:
        self.told.append("close")
