from contextlib import closing
from pathlib import Path

import pytest

from services.domain.store_control import SweepReport
from services.tensor_store.opening import open_blob_store
from tests.unit.tensor_store.store_processes import StoreProcesses
from triptych.domain.errors import TensorNotFound

FOREVER = 2.0**40
MIB = 1 << 20
REQUEST = "a" * 32


@pytest.fixture
def url(shm_root: Path) -> str:
    return f"shm://{shm_root}"


def leftovers(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_processes_with_one_directory_share_one_store(url: str, processes: StoreProcesses) -> None:
    producer = processes.start(url)
    name = producer.put(REQUEST, MIB, 5, FOREVER)
    with closing(open_blob_store(url)) as store:
        with store.open(name, MIB) as view:
            assert set(view) == {5}
        assert store.release_request("tenant", REQUEST) == 1
        assert store.stats().stored_count == 0
    producer.kill()


def test_a_killed_producers_tensors_last_until_the_sweep(
    url: str, shm_root: Path, processes: StoreProcesses
) -> None:
    producer = processes.start(url)
    name = producer.put(REQUEST, MIB, 5, FOREVER)
    producer.put(REQUEST, MIB, 6, FOREVER)
    with closing(open_blob_store(url)) as store:
        assert store.sweep() == SweepReport(expired=0, orphaned=0)
        producer.kill()
        with store.open(name, MIB) as view:
            assert store.sweep() == SweepReport(expired=0, orphaned=2)
            assert set(view) == {5}
        with pytest.raises(TensorNotFound), store.open(name, MIB):
            pass
    assert leftovers(shm_root) == {"id"}


def test_a_producer_killed_while_writing_leaves_nothing_after_the_sweep(
    url: str, shm_root: Path, processes: StoreProcesses
) -> None:
    producer = processes.start(url)
    producer.begin_put(REQUEST, MIB)
    producer.kill()
    with closing(open_blob_store(url)) as store:
        assert store.stats().stored_count == 0
        assert store.sweep() == SweepReport(expired=0, orphaned=1)
    assert leftovers(shm_root) == {"id"}


def test_releasing_while_another_process_reads_does_not_change_what_it_sees(
    url: str, processes: StoreProcesses
) -> None:
    with closing(open_blob_store(url)) as store:
        with store.reserve("tenant", REQUEST, MIB, FOREVER) as reservation:
            reservation.buffer[:] = b"\x01" * MIB
        reader = processes.start(url)
        reader.begin_get(reservation.name, MIB)
        assert store.release_blob(reservation.name)
        for _ in range(3):
            with store.reserve("tenant", REQUEST, MIB, FOREVER) as next_reservation:
                next_reservation.buffer[:] = b"\x02" * MIB
        assert reader.seen() == [1]
        reader.kill()


@pytest.mark.parametrize("ending", ["kill", "end_get"])
def test_the_memory_a_reader_viewed_is_used_again_once_it_is_gone(
    url: str, shm_root: Path, processes: StoreProcesses, ending: str
) -> None:
    def inodes() -> set[int]:
        return {path.stat().st_ino for path in shm_root.glob("*/live/*")}

    with closing(open_blob_store(url)) as store:
        with store.reserve("tenant", REQUEST, MIB, FOREVER) as reservation:
            pass
        (viewed,) = inodes()
        reader = processes.start(url)
        reader.begin_get(reservation.name, MIB)
        store.release_blob(reservation.name)
        with store.reserve("tenant", REQUEST, MIB, FOREVER):
            pass
        assert viewed not in inodes()
        getattr(reader, ending)()
        with store.reserve("tenant", REQUEST, MIB, FOREVER):
            pass
        assert viewed in inodes()


def test_any_process_sweeps_what_expired(url: str, processes: StoreProcesses) -> None:
    producer, sweeper = processes.start(url), processes.start(url)
    expired = producer.put(REQUEST, MIB, 5, 1.0)
    lasting = producer.put(REQUEST, MIB, 6, FOREVER)
    assert sweeper.sweep() == (1, 0)
    with closing(open_blob_store(url)) as store:
        with pytest.raises(TensorNotFound), store.open(expired, MIB):
            pass
        with store.open(lasting, MIB) as view:
            assert set(view) == {6}
    producer.kill()
    sweeper.kill()


def test_a_process_killed_while_it_started_is_swept(url: str, shm_root: Path) -> None:
    with closing(open_blob_store(url)) as store:
        (shm_root / ("f" * 32) / "live").mkdir(parents=True)
        store.sweep()
    assert leftovers(shm_root) == {"id"}
