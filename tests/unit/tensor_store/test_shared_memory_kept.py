"""What outlives the process that wrote it."""

from contextlib import closing
from pathlib import Path

import pytest

from services.domain.store_control import SweepReport
from services.tensor_store.blob_store import BlobName
from services.tensor_store.opening import open_blob_store
from services.tensor_store.shared_memory import SharedMemoryBlobStore
from tests.unit.tensor_store.store_processes import StoreProcesses
from triptych.domain.errors import StoreFull, TensorNotFound

FOREVER = 2.0**40
MIB = 1 << 20
REQUEST = "a" * 32


def put(store: SharedMemoryBlobStore, expire_time: float = FOREVER) -> BlobName:
    with store.reserve("tenant", REQUEST, MIB, expire_time) as reservation:
        reservation.buffer[:] = bytes([7]) * MIB
    return reservation.name


def opened(url: str) -> SharedMemoryBlobStore:
    store = open_blob_store(url)
    assert isinstance(store, SharedMemoryBlobStore)
    return store


def is_there(store: SharedMemoryBlobStore, name: BlobName) -> bool:
    try:
        with store.open(name, MIB) as view:
            return set(view) == {7}
    except TensorNotFound:
        return False


def test_what_is_kept_is_there_after_its_writer_was_killed_and_swept(
    shm_root: Path, processes: StoreProcesses
) -> None:
    url = f"shm://{shm_root}"
    writer = processes.start(url)
    kept = writer.keep(writer.put(REQUEST, MIB, 7, FOREVER))
    lost = writer.put(REQUEST, MIB, 7, FOREVER)
    writer.kill()
    with closing(opened(url)) as store:
        assert store.sweep() == SweepReport(expired=0, orphaned=1)
        assert is_there(store, kept)
        assert not is_there(store, lost)
        assert store.release_blob(kept)
        assert not store.release_blob(kept)
        assert not is_there(store, kept)
    assert {path.name for path in shm_root.iterdir()} == {"id"}


def test_what_is_kept_is_released_with_its_request_and_when_its_time_is_over(
    shm_root: Path,
) -> None:
    with closing(opened(f"shm://{shm_root}")) as store:
        assert is_there(store, store.keep(put(store)))
        assert store.release_request("tenant", REQUEST) == 1
        expired = store.keep(put(store, expire_time=1.0))
        assert store.sweep() == SweepReport(expired=1, orphaned=0)
        assert not is_there(store, expired)


def test_a_reader_sees_what_it_opened_after_it_was_released(shm_root: Path) -> None:
    with closing(opened(f"shm://{shm_root}")) as store:
        kept = store.keep(put(store))
        with store.open(kept, MIB) as view:
            store.release_blob(kept)
            put(store)
            assert set(view) == {7}


def test_what_is_kept_has_a_quota_of_its_own(shm_root: Path) -> None:
    with closing(opened(f"shm://{shm_root}?quota_bytes={2 * MIB}")) as store:
        for _ in range(2):
            store.keep(put(store))
        # Given away: the process has all of its own again.
        names = [put(store) for _ in range(2)]
        with pytest.raises(StoreFull, match="kept for when their processes end"):
            store.keep(names[0])
        assert all(is_there(store, name) for name in names)


def test_what_was_released_cannot_be_kept(shm_root: Path) -> None:
    with closing(opened(f"shm://{shm_root}")) as store:
        name = put(store)
        store.release_blob(name)
        with pytest.raises(TensorNotFound):
            store.keep(name)


def test_the_last_process_that_ends_leaves_nothing(shm_root: Path) -> None:
    url = f"shm://{shm_root}"
    with closing(opened(url)) as other:
        with closing(opened(url)) as store:
            kept = store.keep(put(store))
        assert is_there(other, kept)
    assert {path.name for path in shm_root.iterdir()} == {"id"}
