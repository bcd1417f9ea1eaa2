"""A shared-memory store against a dictionary, with processes that are killed."""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from services.tensor_store.blob_store import BlobName
from services.tensor_store.shared_memory import SharedMemoryBlobStore, SharedMemoryOptions
from tests.unit.tensor_store.store_processes import StoreProcesses
from triptych.domain.errors import TensorNotFound

REQUESTS = st.sampled_from(["a" * 32, "b" * 32, "c" * 32])
SIZES = st.sampled_from([1, 4096, 5000, 20_000])
FILLS = st.integers(0, 255)
LIVES_SECONDS = st.sampled_from([50, 500])


@dataclass(frozen=True)
class Stored:
    name: BlobName
    size_bytes: int
    fill: int
    expire_time: float


class SharedMemoryMachine(RuleBasedStateMachine):
    """This process has two doors to the store; a child that may be killed has a third."""

    processes: StoreProcesses
    blobs = Bundle("blobs")
    views = Bundle("views")

    def __init__(self) -> None:
        super().__init__()
        # Removes itself even when what comes after it fails.
        self.parent = tempfile.TemporaryDirectory(prefix="triptych-test-", dir="/dev/shm")
        self.root = Path(self.parent.name) / "store"
        self.now = time.time()
        self.doors = [
            SharedMemoryBlobStore(
                self.root, SharedMemoryOptions(pool_idle_seconds=100), clock=lambda: self.now
            )
            for _ in range(2)
        ]
        self.child = self.processes.start(f"shm://{self.root}")
        self.by_child: set[BlobName] = set()
        self.orphans: set[BlobName] = set()
        self.model: dict[BlobName, Stored] = {}
        self.viewed: dict[int, tuple[memoryview, Stored]] = {}
        self.open_views: dict[int, ExitStack] = {}

    @rule(
        target=blobs,
        door=st.integers(0, 1),
        request=REQUESTS,
        size=SIZES,
        fill=FILLS,
        life=LIVES_SECONDS,
    )
    def put(self, door: int, request: str, size: int, fill: int, life: float) -> Stored:
        expire_time = self.now + life
        with self.doors[door].reserve("tenant", request, size, expire_time) as reservation:
            reservation.buffer[:] = bytes([fill]) * size
        return self._remember(Stored(reservation.name, size, fill, expire_time))

    @rule(target=blobs, request=REQUESTS, size=SIZES, fill=FILLS, life=LIVES_SECONDS)
    def put_by_child(self, request: str, size: int, fill: int, life: float) -> Stored:
        expire_time = self.now + life
        name = self.child.put(request, size, fill, expire_time)
        self.by_child.add(name)
        return self._remember(Stored(name, size, fill, expire_time))

    @rule(door=st.integers(0, 1))
    def fail_to_put(self, door: int) -> None:
        with (
            pytest.raises(ZeroDivisionError),
            self.doors[door].reserve("tenant", "a" * 32, 4096, self.now),
        ):
            raise ZeroDivisionError

    @rule(door=st.integers(0, 1), blob=blobs)
    def get(self, door: int, blob: Stored) -> None:
        if blob.name in self.model:
            with self.doors[door].open(blob.name, blob.size_bytes) as view:
                assert set(view) == {blob.fill}
                assert len(view) == blob.size_bytes
        else:
            with (
                pytest.raises(TensorNotFound),
                self.doors[door].open(blob.name, blob.size_bytes),
            ):
                pass

    @rule(target=views, door=st.integers(0, 1), blob=blobs)
    def begin_get(self, door: int, blob: Stored) -> int:
        number = len(self.open_views)
        self.open_views[number] = ExitStack()
        if blob.name in self.model:
            view = self.open_views[number].enter_context(
                self.doors[door].open(blob.name, blob.size_bytes)
            )
            self.viewed[number] = (view, blob)
        return number

    @rule(number=consumes(views))
    def end_get(self, number: int) -> None:
        self.viewed.pop(number, None)
        self.open_views[number].close()

    @rule(door=st.integers(0, 1), blob=blobs)
    def release(self, door: int, blob: Stored) -> None:
        assert self.doors[door].release_blob(blob.name) == (blob.name in self.model)
        self.model.pop(blob.name, None)

    @rule(door=st.integers(0, 1), request=REQUESTS)
    def release_request(self, door: int, request: str) -> None:
        names = {name for name in self.model if name.request_id == request}
        assert self.doors[door].release_request("tenant", request) == len(names)
        self._forget(names)

    @rule(seconds=st.sampled_from([10, 60, 1000]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def crash(self) -> None:
        self.child.kill()
        self.orphans |= self.by_child
        self.by_child = set()
        self.child = self.processes.start(f"shm://{self.root}")

    @rule(door=st.integers(0, 1))
    def sweep(self, door: int) -> None:
        report = self.doors[door].sweep()
        self._forget(self.orphans)
        expired = {name for name, blob in self.model.items() if blob.expire_time <= self.now}
        assert report.expired == len(expired)
        self._forget(expired)
        self.orphans = set()

    @invariant()
    def what_is_counted_is_what_is_stored(self) -> None:
        assert self.doors[0].stats().stored_count == len(self.model)

    @invariant()
    def views_never_change(self) -> None:
        for view, blob in self.viewed.values():
            assert set(view) == {blob.fill}

    def teardown(self) -> None:
        with self.parent:
            self._end_with_nothing_left()

    def _end_with_nothing_left(self) -> None:
        self.viewed.clear()
        for each in self.open_views.values():
            each.close()
        self._forget(self.orphans & set(self.model))
        self.child.kill()
        self.doors[0].sweep()
        for request in "abc":
            self.doors[1].release_request("tenant", request * 32)
        assert self.doors[0].stats().stored_count == 0
        for door in self.doors:
            door.close()
        assert [path.name for path in self.root.iterdir()] == ["id"]

    def _remember(self, blob: Stored) -> Stored:
        self.model[blob.name] = blob
        return blob

    def _forget(self, names: set[BlobName]) -> None:
        for name in names:
            self.model.pop(name, None)


def test_a_shared_memory_store_behaves_like_a_dictionary_whatever_dies(
    processes: StoreProcesses,
) -> None:
    machine = type("Machine", (SharedMemoryMachine,), {"processes": processes})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )
