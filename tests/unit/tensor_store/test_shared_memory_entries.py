import os
import random
import resource
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from services.tensor_store.opening import open_blob_store
from services.tensor_store.shared_memory import SharedMemoryBlobStore
from services.tensor_store.shared_memory_entries import SharedMemoryEntries
from tests.unit.tensor_store.store_processes import (
    ENTRIES_IDLE_SECONDS,
    ENTRIES_LIMIT_BYTES,
    StoreProcesses,
)
from triptych.domain.errors import ConfigurationError, StoreFull

MIB = 1 << 20
FOREVER = 2.0**40
REQUEST = "a" * 32
A, B = "a" * 64, "b" * 64


@pytest.fixture
def url(shm_root: Path) -> str:
    return f"shm://{shm_root}"


def opened(root: Path) -> SharedMemoryBlobStore:
    store = open_blob_store(f"shm://{root}")
    assert isinstance(store, SharedMemoryBlobStore)
    return store


def entries_of(store: SharedMemoryBlobStore) -> SharedMemoryEntries:
    return store.entries(ENTRIES_LIMIT_BYTES, ENTRIES_IDLE_SECONDS)


@pytest.fixture
def store(shm_root: Path) -> Iterator[SharedMemoryBlobStore]:
    with closing(opened(shm_root)) as store:
        yield store


@pytest.fixture
def entries(store: SharedMemoryBlobStore) -> SharedMemoryEntries:
    return entries_of(store)


def filled(size_bytes: int, fill: int = 1) -> memoryview:
    return memoryview(bytes([fill]) * size_bytes)


def holds_what_was_written(found: memoryview, name: str, size_bytes: int) -> bool:
    """Whether it is what a child writes by that name."""
    return bytes(found) == filled(size_bytes, int(name, 16))


def cached(root: Path) -> set[str]:
    return {path.name for path in (root / "cache").iterdir()}


def test_entries_are_private_to_the_user(entries: SharedMemoryEntries, shm_root: Path) -> None:
    entries.write(A, filled(5000))
    assert stat.S_IMODE((shm_root / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE((shm_root / "cache" / A).stat().st_mode) == 0o600


def test_entries_outlive_who_wrote_them_until_the_last_process_leaves(
    shm_root: Path, url: str, processes: StoreProcesses
) -> None:
    with closing(opened(shm_root)) as last:
        with closing(opened(shm_root)) as first:
            assert entries_of(first).write(A, filled(5000))
        writer = processes.start(url)
        assert writer.write_entry(B, 5000, 7)
        writer.kill()
        last.sweep()
        assert entries_of(last).usage().count == 2
        found = entries_of(last).read(B)
        assert found is not None
        assert set(found) == {7}
    assert [path.name for path in shm_root.iterdir()] == ["id"]


def test_what_is_written_when_the_last_process_has_left_is_not_kept(shm_root: Path) -> None:
    store = opened(shm_root)
    entries = entries_of(store)
    store.close()
    assert not entries.write(A, filled(10))
    assert entries.read(A) is None
    assert entries.usage().count == entries.sweep() == entries.clear() == 0
    assert [path.name for path in shm_root.iterdir()] == ["id"]


def test_a_link_in_place_of_an_entry_is_not_followed(
    entries: SharedMemoryEntries, shm_root: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    for name in (A, "writing"):
        (shm_root / "cache" / name).symlink_to(secret)
    assert entries.read(A) is None
    assert entries.write(A, filled(10))
    assert entries.read(A) == filled(10)
    assert secret.read_bytes() == b"secret"
    assert cached(shm_root) == {A}


def test_a_link_in_place_of_the_directory_is_refused(shm_root: Path, tmp_path: Path) -> None:
    shm_root.mkdir(mode=0o700)
    (shm_root / "cache").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="cache is not a directory"):
        opened(shm_root)


def test_an_entry_that_was_emptied_is_not_there(
    entries: SharedMemoryEntries, shm_root: Path
) -> None:
    entries.write(A, filled(10))
    os.truncate(shm_root / "cache" / A, 0)
    assert entries.read(A) is None


def test_what_a_reader_has_stays_when_the_entry_goes(entries: SharedMemoryEntries) -> None:
    entries.write(A, filled(MIB, 5))
    found = entries.read(A)
    assert found is not None
    entries.write(A, filled(MIB, 6))
    entries.clear()
    assert set(found) == {5}


def test_a_writer_that_is_stopped_holds_nobody_up(
    entries: SharedMemoryEntries, store: SharedMemoryBlobStore, url: str, processes: StoreProcesses
) -> None:
    entries.write(A, filled(10))
    writer = processes.start(url)
    writer.stop_while_it_writes_an_entry()
    began = time.monotonic()
    assert not entries.write(B, filled(10))
    assert entries.read(A) == filled(10)
    assert entries.sweep() == 0
    assert entries.clear() == 10
    entries.discard(A)
    with store.reserve("tenant", REQUEST, MIB, FOREVER):
        pass
    assert time.monotonic() - began < 10
    writer.kill()
    assert entries.write(B, filled(10))


def test_writers_killed_at_any_point_leave_whole_entries_and_a_cache_that_works(
    entries: SharedMemoryEntries, shm_root: Path, url: str, processes: StoreProcesses
) -> None:
    moments, unfinished = random.Random(7), 0
    for turn in range(60):
        writers = [processes.start(url) for _ in range(2)]
        for writer in writers:
            writer.write_entries_forever(MIB)
        time.sleep(moments.uniform(0, 0.01))
        for writer in writers:
            writer.kill()
        unfinished += "writing" in cached(shm_root)
        assert sum(path.stat().st_size for path in (shm_root / "cache").iterdir()) <= 4 * MIB
        for name in cached(shm_root) - {"writing"}:
            found = entries.read(name)
            assert found is not None
            assert holds_what_was_written(found, name, MIB)
        assert entries.write(f"{turn:064x}", filled(MIB, turn))
        assert "writing" not in cached(shm_root)
    # Else none was killed where it matters.
    assert unfinished


def test_a_process_without_file_descriptors_goes_without_entries(
    entries: SharedMemoryEntries,
) -> None:
    entries.write(A, filled(10))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert entries.read(A) is None
        assert not entries.write(B, filled(10))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert entries.read(A) == filled(10)


def test_what_a_killed_writer_left_is_swept(entries: SharedMemoryEntries, shm_root: Path) -> None:
    (shm_root / "cache" / "writing").write_bytes(b"x" * 10)
    assert entries.usage().count == 0
    assert entries.sweep() == 0
    assert cached(shm_root) == set()


@pytest.mark.parametrize("small_tmpfs", [16 * MIB], indirect=True)
def test_a_full_file_system_takes_no_entry_and_keeps_those_it_has(small_tmpfs: Path) -> None:
    with closing(opened(small_tmpfs)) as store:
        entries = store.entries(64 * MIB, ENTRIES_IDLE_SECONDS)
        assert entries.write(A, filled(9 * MIB))
        assert not entries.write(B, filled(9 * MIB))
        assert cached(small_tmpfs) == {A}
        assert entries.read(A) == filled(9 * MIB)


@pytest.mark.parametrize("small_tmpfs", [16 * MIB], indirect=True)
def test_entries_make_room_for_a_requests_tensors(small_tmpfs: Path) -> None:
    with closing(opened(small_tmpfs)) as caching, closing(opened(small_tmpfs)) as other:
        entries = caching.entries(64 * MIB, ENTRIES_IDLE_SECONDS)
        assert entries.write(A, filled(9 * MIB))
        with other.reserve("tenant", REQUEST, 12 * MIB, FOREVER):
            assert entries.usage().count == 0
        with (
            pytest.raises(StoreFull, match="cannot allocate"),
            other.reserve("tenant", REQUEST, 9 * MIB, FOREVER),
        ):
            pass


@pytest.mark.parametrize("small_tmpfs", [16 * MIB], indirect=True)
def test_a_file_system_is_not_full_of_what_makes_room(small_tmpfs: Path) -> None:
    with closing(opened(small_tmpfs)) as store:
        before = store.fullness()
        assert entries_of(store).write(A, filled(2 * MIB))
        assert store.fullness() == before


def test_a_full_quota_costs_no_entry(shm_root: Path) -> None:
    with closing(open_blob_store(f"shm://{shm_root}?quota_bytes=4096")) as store:
        entries = store.entries(MIB, ENTRIES_IDLE_SECONDS)
        assert entries.write(A, filled(MIB))
        with (
            pytest.raises(StoreFull, match="quota_bytes"),
            store.reserve("tenant", REQUEST, 2 * 4096, FOREVER),
        ):
            pass
        assert entries.read(A)


@pytest.mark.parametrize("small_tmpfs", [16 * MIB], indirect=True)
def test_writers_in_several_processes_never_take_more_than_the_limit(
    small_tmpfs: Path, processes: StoreProcesses
) -> None:
    def used_bytes() -> int:
        found = os.statvfs(small_tmpfs.parent)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    with closing(opened(small_tmpfs)) as store:
        entries = entries_of(store)
        writers = [processes.start(f"shm://{small_tmpfs}") for _ in range(3)]
        empty_bytes, most_bytes = used_bytes(), 0
        for number, writer in enumerate(writers):
            writer.write_entries_forever((700 + 100 * number) << 10)
        seen: set[str] = set()
        while len(seen) < 200:
            most_bytes = max(most_bytes, used_bytes())
            seen |= cached(small_tmpfs) - {"writing"}
        for writer in writers:
            writer.kill()
        # A page or so for each file's name.
        assert 2 * MIB < most_bytes - empty_bytes <= ENTRIES_LIMIT_BYTES + 64 * 1024
        assert entries.usage().size_bytes <= ENTRIES_LIMIT_BYTES


def test_readers_see_whole_entries_while_others_write_and_clear(
    entries: SharedMemoryEntries, shm_root: Path, url: str, processes: StoreProcesses
) -> None:
    writer, done = processes.start(url), threading.Event()
    writer.write_entries_forever(300 << 10)

    def clear() -> None:
        while not done.wait(0.01):
            entries.clear()

    clearing = threading.Thread(target=clear)
    clearing.start()
    seen = 0
    while seen < 200:
        for name in cached(shm_root) - {"writing"}:
            found = entries.read(name)
            if found is not None:
                assert holds_what_was_written(found, name, 300 << 10)
                seen += 1
    done.set()
    clearing.join()
    writer.kill()
