import os
import subprocess
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


@pytest.fixture
def small_tmpfs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    size_bytes: int = request.param
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    options = f"size={size_bytes},mode=0755"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    yield tmp_path / "store"
    # Lazily: a view that a failed test still holds must not keep the mount.
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
