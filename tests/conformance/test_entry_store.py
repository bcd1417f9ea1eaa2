"""What the cache of every tensor store promises, whichever backend keeps the bytes."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.domain.store_control import EntryUsage
from services.tensor_store.entry_store import EntryStore
from tests.conformance.store_backends import LOCAL, STORING, Backend

LIMIT_BYTES = 100_000
IDLE_SECONDS = 300.0
A, B, C, D = (digit * 64 for digit in "abcd")


@pytest.fixture(params=STORING)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from STORING[request.param]()


@pytest.fixture(params=LOCAL)
def local(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backends whose processes themselves look for what nobody uses."""
    yield from LOCAL[request.param]()


def entries_of(
    backend: Backend, limit_bytes: int = LIMIT_BYTES, idle_seconds: float = IDLE_SECONDS
) -> tuple[EntryStore, EntryStore]:
    """Two doors to the same entries, where there can be two."""
    writer, reader = backend.store._blobs, backend.reader._blobs
    return writer.entries(limit_bytes, idle_seconds), reader.entries(limit_bytes, idle_seconds)


@pytest.fixture
def doors(backend: Backend) -> Iterator[tuple[EntryStore, EntryStore]]:
    writer, reader = entries_of(backend)
    yield writer, reader
    writer.clear()


Doors = tuple[EntryStore, EntryStore]


def read(entries: EntryStore, name: str) -> bytes | None:
    found = entries.read(name)
    return None if found is None else bytes(found)


def write(backend: Backend, entries: EntryStore, name: str, size_bytes: int) -> bool:
    """Writes bytes that are all of the name's, a second after whatever was before."""
    backend.clock.now += 1
    return entries.write(name, memoryview(name[0].encode() * size_bytes))


def there(entries: EntryStore) -> set[str]:
    """Which are, without asking for the others' content; counts as a use of each."""
    return {name[0] for name in (A, B, C, D) if entries.read(name) is not None}


@pytest.mark.parametrize("size_bytes", [1, 4096, 70_001])
def test_what_one_wrote_another_reads(doors: Doors, size_bytes: int) -> None:
    writer, reader = doors
    data = os.urandom(size_bytes)
    assert writer.write(A, memoryview(data))
    assert read(reader, A) == data
    assert reader.usage() == EntryUsage(1, size_bytes, LIMIT_BYTES)


def test_what_was_never_written_is_not_there(doors: Doors) -> None:
    assert read(doors[1], A) is None


def test_what_is_written_again_takes_the_place_of_what_was(doors: Doors) -> None:
    writer, reader = doors
    writer.write(A, memoryview(b"x" * 60_000))
    assert reader.write(A, memoryview(b"y" * 70_000))
    assert read(writer, A) == b"y" * 70_000
    assert writer.usage() == EntryUsage(1, 70_000, LIMIT_BYTES)


def test_what_is_kept_is_a_copy(doors: Doors) -> None:
    data = bytearray(b"x" * 5000)
    doors[0].write(A, memoryview(data))
    data[:] = b"y" * 5000
    assert read(doors[1], A) == b"x" * 5000


def test_what_was_not_used_for_longest_goes_first(backend: Backend, doors: Doors) -> None:
    writer, reader = doors
    for name in (A, B, C):
        assert write(backend, writer, name, 30_000)
    backend.clock.now += 1
    assert read(reader, A)
    assert write(backend, reader, D, 30_000)
    assert there(writer) == {"a", "c", "d"}


def test_as_many_go_as_are_needed_and_no_more(backend: Backend, doors: Doors) -> None:
    writer, _ = doors
    for name in (A, B, C):
        assert write(backend, writer, name, 30_000)
    assert write(backend, writer, D, 70_000)
    assert there(writer) == {"c", "d"}
    assert writer.usage() == EntryUsage(2, LIMIT_BYTES, LIMIT_BYTES)


def test_what_can_never_fit_is_refused_and_nothing_goes_for_it(
    backend: Backend, doors: Doors
) -> None:
    writer, _ = doors
    assert write(backend, writer, A, LIMIT_BYTES)
    assert not write(backend, writer, B, LIMIT_BYTES + 1)
    assert there(writer) == {"a"}


def test_each_keeps_to_its_own_limit(backend: Backend, doors: Doors) -> None:
    writer, _ = doors
    small, _ = entries_of(backend, limit_bytes=50_000)
    for name in (A, B, C):
        assert write(backend, writer, name, 30_000)
    assert write(backend, small, D, 20_000)
    assert there(writer) == {"c", "d"}


def test_a_limit_of_nothing_keeps_nothing(backend: Backend) -> None:
    entries, _ = entries_of(backend, limit_bytes=0)
    assert not write(backend, entries, A, 1)
    assert entries.usage() == EntryUsage(0, 0, 0)


def test_what_is_discarded_is_gone_for_all(backend: Backend, doors: Doors) -> None:
    writer, reader = doors
    write(backend, writer, A, 10)
    write(backend, writer, B, 10)
    reader.discard(A)
    reader.discard(C)
    assert there(writer) == {"b"}
    assert writer.usage().size_bytes == 10


def test_clearing_forgets_all_and_says_how_much(backend: Backend, doors: Doors) -> None:
    writer, reader = doors
    write(backend, writer, A, 10)
    write(backend, writer, B, 20)
    assert reader.clear() == 30
    assert there(writer) == set()
    assert reader.clear() == 0
    assert write(backend, writer, A, 10)


def test_what_nobody_uses_is_forgotten(backend: Backend, doors: Doors) -> None:
    writer, reader = doors
    write(backend, writer, A, 10)
    write(backend, writer, B, 10)
    backend.clock.now += IDLE_SECONDS - 2
    assert read(reader, A)
    assert reader.sweep() == 0
    backend.clock.now += 2
    assert reader.sweep() == 1
    assert there(writer) == {"a"}


def test_what_nobody_used_is_not_there_even_before_a_sweep(local: Backend) -> None:
    writer, reader = entries_of(local)
    write(local, writer, A, 10)
    local.clock.now += IDLE_SECONDS
    assert read(reader, A) is None


@pytest.mark.parametrize("name", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 65])
def test_a_name_that_is_none_is_an_error(doors: Doors, name: str) -> None:
    for use in (
        doors[0].read,
        doors[0].discard,
        lambda each: doors[0].write(each, memoryview(b"x")),
    ):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            use(name)


def test_entries_count_in_no_request(backend: Backend, doors: Doors) -> None:
    write(backend, doors[0], A, 50_000)
    stats = backend.store.stats()
    assert (stats.stored_count, stats.stored_bytes) == (0, 0)


def test_whoever_writes_together_keeps_to_the_limit_and_whoever_reads_sees_whole_entries(
    backend: Backend, doors: Doors
) -> None:
    names = [f"{number:064x}" for number in range(12)]
    begun = threading.Barrier(4)

    def work(number: int) -> int:
        entries, kept = doors[number % 2], 0
        begun.wait()
        for turn in range(40):
            name = names[(7 * turn + 5 * number) % len(names)]
            size_bytes = 1000 + 3000 * (turn % 9)
            kept += entries.write(name, memoryview(bytes([number]) * size_bytes))
            found = entries.read(names[turn % len(names)])
            assert found is None or len(set(bytes(found))) == 1
        return kept

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    usage = doors[0].usage()
    assert usage.size_bytes <= LIMIT_BYTES
    found = [each for name in names if (each := read(doors[1], name)) is not None]
    assert (len(found), sum(map(len, found))) == (usage.count, usage.size_bytes)
