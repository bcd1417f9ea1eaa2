"""A cache's entries against a dictionary, with two processes' doors, on every tensor store."""

from contextlib import ExitStack, contextmanager

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.domain.store_control import EntryUsage
from tests.conformance.store_backends import LOCAL, STORING

NAMES = st.sampled_from([digit * 64 for digit in "abcdef"])
DOORS = st.integers(0, 1)
SIZES = st.integers(1, 700)
IDLE_SECONDS = 1000.0


class EntriesMachine(RuleBasedStateMachine):
    """The model's order is that of the last use; no two uses are at the same time."""

    kind: str

    def filled(self) -> bool:
        """Else it would be emptied before anything has to go for want of room."""
        return len(self.model) > 3

    @initialize(limit_bytes=st.sampled_from([1, 500, 1000, 2000]))
    def open(self, limit_bytes: int) -> None:
        self.exits = ExitStack()
        backend = self.exits.enter_context(contextmanager(STORING[self.kind])())
        self.limit_bytes = limit_bytes
        self.clock = backend.clock
        self.doors = [
            each._blobs.entries(limit_bytes, IDLE_SECONDS)
            for each in (backend.store, backend.reader)
        ]
        self.exits.callback(self.doors[0].clear)
        self.model: dict[str, tuple[bytes, float]] = {}

    @rule(door=DOORS, name=NAMES, size=SIZES, fill=st.integers(0, 255))
    def write(self, door: int, name: str, size: int, fill: int) -> None:
        self.clock.now += 1
        data = bytes([fill]) * size
        assert self.doors[door].write(name, memoryview(data)) is (size <= self.limit_bytes)
        if size <= self.limit_bytes:
            self.model.pop(name, None)
            while self.size_bytes() + size > self.limit_bytes:
                del self.model[next(iter(self.model))]
            self.model[name] = (data, self.clock.now)

    @rule(door=DOORS, name=NAMES)
    def read(self, door: int, name: str) -> None:
        self.clock.now += 1
        found = self.doors[door].read(name)
        data, used_time = self.model.get(name, (None, self.clock.now))
        if data is None or used_time <= self.clock.now - IDLE_SECONDS:
            assert found is None
        else:
            assert found is not None
            assert bytes(found) == data
            del self.model[name]
            self.model[name] = (data, self.clock.now)

    @precondition(filled)
    @rule(door=DOORS, name=NAMES)
    def discard(self, door: int, name: str) -> None:
        self.doors[door].discard(name)
        self.model.pop(name, None)

    @precondition(filled)
    @rule(door=DOORS)
    def clear(self, door: int) -> None:
        assert self.doors[door].clear() == self.size_bytes()
        self.model.clear()

    @rule(seconds=st.sampled_from([10.0, 400.0]))
    def wait(self, seconds: float) -> None:
        # Others' servers have a clock of their own.
        if self.kind in LOCAL:
            self.clock.now += seconds

    @rule(door=DOORS)
    def sweep(self, door: int) -> None:
        idle_since = self.clock.now - IDLE_SECONDS
        idle = [name for name, (_, used_time) in self.model.items() if used_time <= idle_since]
        assert self.doors[door].sweep() == len(idle)
        for name in idle:
            del self.model[name]

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        for each in self.doors:
            assert each.usage() == EntryUsage(len(self.model), self.size_bytes(), self.limit_bytes)
        assert self.size_bytes() <= self.limit_bytes

    def size_bytes(self) -> int:
        return sum(len(data) for data, _ in self.model.values())

    def teardown(self) -> None:
        self.exits.close()


@pytest.mark.parametrize("kind", STORING)
def test_entries_behave_like_a_dictionary_that_forgets_what_was_not_used_for_longest(
    kind: str,
) -> None:
    machine = type("Machine", (EntriesMachine,), {"kind": kind})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
