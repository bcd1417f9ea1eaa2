import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.tensor_store.store_processes import StoreProcesses


@pytest.fixture
def shm_root() -> Iterator[Path]:
    """Where a store may be made, on tmpfs."""
    with tempfile.TemporaryDirectory(prefix="triptych-test-", dir="/dev/shm") as parent:
        yield Path(parent) / "store"


@pytest.fixture(scope="session")
def processes() -> Iterator[StoreProcesses]:
    with StoreProcesses() as started:
        yield started
