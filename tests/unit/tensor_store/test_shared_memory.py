import os
import resource
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from services.domain.store_control import Bound, Fullness
from services.tensor_store.blob_store import BlobName
from services.tensor_store.shared_memory import SharedMemoryBlobStore, SharedMemoryOptions
from triptych.domain.errors import (
    ConfigurationError,
    StoreFull,
    TensorCorrupted,
    TensorNotFound,
    Unavailable,
)

FOREVER = 2.0**40
MIB = 1 << 20
REQUEST = "a" * 32


def opened(root: Path, **options: object) -> SharedMemoryBlobStore:
    return SharedMemoryBlobStore(root, SharedMemoryOptions.model_validate(options))


def put(
    store: SharedMemoryBlobStore, size_bytes: int, fill: int = 1, request: str = REQUEST
) -> BlobName:
    with store.reserve("tenant", request, size_bytes, FOREVER) as reservation:
        reservation.buffer[:] = bytes([fill]) * size_bytes
    return reservation.name


def inode(root: Path, name: BlobName) -> int:
    (path,) = root.glob(f"{name.owner}/live/*.{name.key}")
    return path.stat().st_ino


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture
def store(shm_root: Path) -> Iterator[SharedMemoryBlobStore]:
    with closing(opened(shm_root)) as store:
        yield store


def test_everything_is_private_to_the_user(store: SharedMemoryBlobStore, shm_root: Path) -> None:
    put(store, MIB)
    store.release_blob(put(store, MIB))
    with store.reserve("tenant", REQUEST, MIB, FOREVER):
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in shm_root.rglob("*")}
        assert shm_root.stat().st_mode & 0o777 == 0o700
        assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
        assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_a_process_without_file_descriptors_is_told_that_the_store_is_full(
    store: SharedMemoryBlobStore,
) -> None:
    name = put(store, MIB)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for act in (
            lambda: put(store, MIB),
            lambda: store.open(name, MIB).__enter__(),
            lambda: store.release_request("tenant", REQUEST),
            store.sweep,
        ):
            with pytest.raises(StoreFull, match="Too many open files"):
                act()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.release_request("tenant", REQUEST) == 1


def test_closing_leaves_only_the_identity(shm_root: Path) -> None:
    store = opened(shm_root)
    put(store, MIB)
    store.release_blob(put(store, MIB))
    identity = store.identity
    store.close()
    assert files(shm_root) == {"id"}
    with closing(opened(shm_root)) as successor:
        assert successor.identity == identity


def test_closing_twice_is_closing_once(shm_root: Path) -> None:
    store = opened(shm_root)
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        put(store, 1)


def test_closing_during_a_put_ends_the_put_and_leaves_nothing(shm_root: Path) -> None:
    store = opened(shm_root)
    with (
        pytest.raises(Unavailable, match="closed"),
        store.reserve("tenant", REQUEST, MIB, FOREVER),
    ):
        store.close()
    assert files(shm_root) == {"id"}


def test_released_memory_is_used_again(store: SharedMemoryBlobStore, shm_root: Path) -> None:
    first = put(store, MIB)
    first_inode = inode(shm_root, first)
    store.release_blob(first)
    second = put(store, MIB // 2)
    assert inode(shm_root, second) == first_inode
    assert second.key != first.key
    with pytest.raises(TensorNotFound), store.open(first, MIB):
        pass


def test_large_memory_is_not_used_again_for_small_blobs(
    store: SharedMemoryBlobStore, shm_root: Path
) -> None:
    first = put(store, MIB)
    first_inode = inode(shm_root, first)
    store.release_blob(first)
    assert inode(shm_root, put(store, MIB // 5)) != first_inode


def test_memory_that_another_door_released_is_used_again(
    store: SharedMemoryBlobStore, shm_root: Path
) -> None:
    name = put(store, MIB)
    first_inode = inode(shm_root, name)
    with closing(opened(shm_root)) as other:
        assert other.release_blob(name)
        assert not store.release_blob(name)
    assert inode(shm_root, put(store, MIB)) == first_inode


def test_idle_memory_is_given_back_by_the_sweep(shm_root: Path) -> None:
    with closing(opened(shm_root, pool_idle_seconds=0)) as store:
        store.release_blob(put(store, MIB))
        assert store.stats().pooled_bytes == MIB
        store.sweep()
        assert store.stats().pooled_bytes == 0
        put(store, MIB)


def test_memory_just_released_survives_the_sweep(store: SharedMemoryBlobStore) -> None:
    store.release_blob(put(store, MIB))
    store.sweep()
    assert store.stats().pooled_bytes == MIB


def test_pooled_memory_makes_room_before_the_quota_refuses(shm_root: Path) -> None:
    with closing(opened(shm_root, quota_bytes=4 * MIB)) as store:
        for _ in range(2):
            store.release_blob(put(store, MIB // 2))
            store.release_blob(put(store, 4 * MIB))
        assert store.stats().pooled_bytes == 4 * MIB
        kept = put(store, 3 * MIB)
        with pytest.raises(StoreFull, match="quota_bytes 4194304, of which 4194304"):
            put(store, 2 * MIB)
        store.release_blob(kept)
        put(store, 4 * MIB)


def test_a_writer_that_fails_leaves_no_trace(shm_root: Path) -> None:
    with closing(opened(shm_root, quota_bytes=MIB)) as store:
        for _ in range(3):
            with (
                pytest.raises(ZeroDivisionError),
                store.reserve("tenant", REQUEST, MIB, FOREVER),
            ):
                raise ZeroDivisionError
        assert store.stats().stored_count == 0
        assert not [path for path in files(shm_root) if path.count("/") > 1]
        put(store, MIB)


def test_a_view_taken_before_the_release_never_shows_the_next_blob(
    store: SharedMemoryBlobStore, shm_root: Path
) -> None:
    first = put(store, MIB, fill=1)
    with store.open(first, MIB) as view:
        store.release_blob(first)
        put(store, MIB, fill=2)
        assert set(view) == {1}
    kept = view
    assert set(kept) == {1}
    put(store, MIB, fill=3)
    assert set(kept) == {1}


def test_a_view_that_is_gone_frees_its_segment(
    store: SharedMemoryBlobStore, shm_root: Path
) -> None:
    first = put(store, MIB)
    first_inode = inode(shm_root, first)
    with store.open(first, MIB) as view:
        store.release_blob(first)
        assert inode(shm_root, put(store, MIB)) != first_inode
    del view
    assert inode(shm_root, put(store, MIB)) == first_inode


def test_what_a_reader_writes_stays_with_the_reader(store: SharedMemoryBlobStore) -> None:
    name = put(store, MIB, fill=1)
    with store.open(name, MIB) as view:
        view[0] = 9
    with store.open(name, MIB) as view:
        assert view[0] == 1


def test_a_file_that_was_cut_is_corrupt(store: SharedMemoryBlobStore, shm_root: Path) -> None:
    name = put(store, MIB)
    (path,) = shm_root.glob("*/live/*")
    os.truncate(path, MIB // 2)
    with pytest.raises(TensorCorrupted, match="fewer than the expected 1048576"):
        store.open(name, MIB).__enter__()


def test_a_link_in_place_of_a_blob_is_not_followed(
    store: SharedMemoryBlobStore, shm_root: Path, tmp_path: Path
) -> None:
    name = put(store, MIB)
    (path,) = shm_root.glob("*/live/*")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(MIB))
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        store.open(name, MIB).__enter__()


def test_a_directory_others_may_enter_is_refused(shm_root: Path) -> None:
    shm_root.mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="mode 0755; it must be 0700"):
        opened(shm_root)


def test_a_link_to_a_directory_is_refused(shm_root: Path, tmp_path: Path) -> None:
    shm_root.symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="is not a directory"):
        opened(shm_root)


def test_a_directory_without_parent_is_refused(shm_root: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        opened(shm_root / "deeper")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(shm_root: Path) -> None:
    shm_root.mkdir(mode=0o700)
    os.chown(shm_root, 65534, -1)
    with pytest.raises(ConfigurationError, match="belongs to user 65534"):
        opened(shm_root)


def test_a_damaged_identity_is_refused(shm_root: Path) -> None:
    shm_root.mkdir(mode=0o700)
    (shm_root / "id").write_text("damaged")
    with pytest.raises(ConfigurationError, match="'damaged', which is not 32"):
        opened(shm_root)


@pytest.mark.parametrize("small_tmpfs", [16 * MIB], indirect=True)
def test_a_full_file_system_refuses_and_loses_nothing(small_tmpfs: Path) -> None:
    with closing(opened(small_tmpfs, quota_bytes=20 * MIB)) as store:
        kept = put(store, 8 * MIB, fill=7)
        before = files(small_tmpfs)
        with pytest.raises(StoreFull, match="cannot allocate 12582912 bytes: No space left"):
            put(store, 12 * MIB)
        assert files(small_tmpfs) == before
        with store.open(kept, 8 * MIB) as view:
            assert set(view) == {7}
        # What was refused counts neither against the file system nor against the quota.
        put(store, 6 * MIB)


@pytest.mark.parametrize("small_tmpfs", [16 * MIB], indirect=True)
def test_pooled_memory_makes_room_on_a_full_file_system(small_tmpfs: Path) -> None:
    with closing(opened(small_tmpfs)) as store:
        store.release_blob(put(store, 2 * MIB))
        store.release_blob(put(store, 9 * MIB))
        put(store, 14 * MIB)


@pytest.mark.parametrize("small_tmpfs", [8 * MIB], indirect=True)
def test_a_file_system_that_is_too_small_is_refused(small_tmpfs: Path) -> None:
    with pytest.raises(ConfigurationError, match="8388608 bytes; at least 16777216 are needed"):
        opened(small_tmpfs)


def test_the_file_system_is_a_limit_of_its_own_whoever_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(tmp_path / "store")) as store:
        # 1000 blocks of 4 KiB; 300 are free, of which 50 are the superuser's.
        told = os.statvfs_result((4096, 4096, 1000, 300, 250, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _: told)
        _, found = store.fullness()
    assert found == Fullness(Bound.FILE_SYSTEM, 750 * 4096, 1000 * 4096)
