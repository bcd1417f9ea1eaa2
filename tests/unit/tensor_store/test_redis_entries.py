import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from services.domain.settings import EncodingSettings
from services.domain.store_control import EntryUsage
from services.tensor_store.opening import open_blob_store
from services.tensor_store.redis import RedisBlobStore
from services.tensor_store.redis_entries import RedisEntries
from services.tensor_store.redis_server import CHUNK_BYTES
from tests.system.running_cluster import until
from tests.unit.tensor_store.test_redis import RIGHTS
from tests.valkey_server import BINARIES, KeyValueServer, key_value_server
from triptych.domain.errors import ConfigurationError, StoreFull, Unavailable

pytestmark = pytest.mark.slow

MIB = 1 << 20
LIMIT_BYTES = 64 * MIB
IDLE_SECONDS = 600.0
REQUEST = "a" * 32
A, B, C = (digit * 64 for digit in "abc")
LISTS = {b"triptych:cache:sizes", b"triptych:cache:used", b"triptych:cache:total"}


@pytest.fixture(params=BINARIES)
def server(request: pytest.FixtureRequest) -> Iterator[KeyValueServer]:
    with key_value_server(binary=BINARIES[request.param]) as server:
        yield server


def opened(server: KeyValueServer, options: str = "") -> RedisBlobStore:
    store = open_blob_store(f"{server.url}{options}")
    assert isinstance(store, RedisBlobStore)
    return store


def entries_of(store: RedisBlobStore, limit_bytes: int = LIMIT_BYTES) -> RedisEntries:
    return store.entries(limit_bytes, IDLE_SECONDS)


@pytest.fixture
def entries(server: KeyValueServer) -> Iterator[RedisEntries]:
    with closing(opened(server)) as store:
        yield entries_of(store)


def test_a_bound_that_was_read_from_settings_bounds_what_is_written(
    server: KeyValueServer,
) -> None:
    told = EncodingSettings.model_validate({"conditioning_cache_bytes": "1MiB"})
    with closing(opened(server)) as store:
        entries = store.entries(told.conditioning_cache_bytes, told.conditioning_cache_idle_seconds)
        assert entries.write(A, filled(MIB // 2))
        assert entries.usage() == EntryUsage(1, MIB // 2, MIB)


def filled(size_bytes: int, fill: int = 1) -> memoryview:
    return memoryview(bytes([fill]) * size_bytes)


def entry_key(name: str) -> str:
    return f"triptych:cache:entry:{name}"


def put(store: RedisBlobStore, size_bytes: int) -> None:
    with store.reserve("tenant", REQUEST, size_bytes, 2.0**32):
        pass


def leave_room(server: KeyValueServer, size_bytes: int) -> None:
    """Has the server take so much more, and then no more."""
    used_bytes = int(server.client().info("memory")["used_memory"])
    server.client().config_set("maxmemory", used_bytes + size_bytes)


def test_entries_of_many_chunks_pass(entries: RedisEntries, server: KeyValueServer) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 5)
    assert entries.write(A, memoryview(data))
    assert server.client().hlen(entry_key(A)) == 3
    assert entries.read(A) == data
    assert entries.write(A, filled(10))
    assert entries.read(A) == filled(10)
    assert server.client().hlen(entry_key(A)) == 1


def test_tensors_of_any_type_are_taken_as_bytes(entries: RedisEntries) -> None:
    assert entries.write(A, filled(2 * CHUNK_BYTES).cast("f"))
    assert entries.read(A) == filled(2 * CHUNK_BYTES)


def test_entries_outlive_who_wrote_them(server: KeyValueServer) -> None:
    with closing(opened(server)) as store:
        assert entries_of(store).write(A, filled(10))
    with closing(opened(server)) as store:
        assert entries_of(store).read(A) == filled(10)


def test_no_key_is_kept_without_an_end_and_every_use_puts_it_off(
    entries: RedisEntries, server: KeyValueServer
) -> None:
    client = server.client()
    entries.write(A, filled(10))
    keys = LISTS | {entry_key(A).encode()}
    assert set(client.keys("*")) == keys
    for key in keys:
        client.pexpire(key, 60_000)
    assert entries.read(A)
    assert all(599_000 < client.pttl(key) <= 600_000 for key in keys)


def test_the_server_forgets_what_nobody_uses(server: KeyValueServer) -> None:
    with closing(opened(server)) as store:
        entries = store.entries(LIMIT_BYTES, 0.2)
        assert entries.write(A, filled(10))
        assert until(lambda: server.client().keys("*") == [])
        assert entries.read(A) is None
        assert entries.usage() == EntryUsage(0, 0, LIMIT_BYTES)


@pytest.mark.parametrize("lost", ["entry", "chunk", "size"])
def test_what_is_not_whole_is_not_there(
    entries: RedisEntries, server: KeyValueServer, lost: str
) -> None:
    client = server.client()
    assert entries.write(A, filled(2 * CHUNK_BYTES))
    if lost == "entry":
        client.delete(entry_key(A))
    elif lost == "chunk":
        client.hdel(entry_key(A), "0")
    else:
        client.hdel("triptych:cache:sizes", A)
    assert entries.read(A) is None
    assert entries.write(A, filled(10))
    assert entries.read(A) == filled(10)
    assert entries.usage() == EntryUsage(1, 10, LIMIT_BYTES)


def test_an_entry_whose_last_use_is_not_known_goes_first(
    entries: RedisEntries, server: KeyValueServer
) -> None:
    assert entries.write(A, filled(10))
    assert entries.write(B, filled(10))
    server.client().zrem("triptych:cache:used", B)
    assert entries.write(C, filled(LIMIT_BYTES - 10))
    assert [entries.read(each) is None for each in (A, B, C)] == [False, True, False]


def test_a_full_server_takes_no_entry_and_still_hands_out_those_it_has(
    entries: RedisEntries, server: KeyValueServer
) -> None:
    assert entries.write(A, filled(5 * MIB))
    leave_room(server, 6 * MIB)
    assert not entries.write(B, filled(20 * MIB))
    assert entries.usage().count == 1
    leave_room(server, 0)
    assert not entries.write(B, filled(MIB))
    assert entries.read(A) == filled(5 * MIB)
    entries.discard(A)
    assert server.client().keys("*") == []


def test_entries_make_room_for_a_requests_tensors(server: KeyValueServer) -> None:
    with closing(opened(server)) as caching, closing(opened(server)) as other:
        entries = entries_of(caching)
        assert entries.write(A, filled(20 * MIB))
        leave_room(server, 6 * MIB)
        put(other, 2 * MIB)
        assert entries.usage().count == 1
        put(other, 16 * MIB)
        assert entries.usage().count == 0
        assert other.stats().stored_bytes == 18 * MIB
        with pytest.raises(StoreFull, match="has reached its maxmemory"):
            put(other, 16 * MIB)
        assert other.stats().stored_bytes == 18 * MIB


def test_room_is_made_once_however_fast_others_fill_it_again(
    server: KeyValueServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(server)) as caching, closing(opened(server)) as other:
        entries = entries_of(caching)
        assert entries.write(A, filled(8 * MIB))
        leave_room(server, 6 * MIB)
        cleared: list[int] = []
        clear = RedisEntries.clear

        def cleared_and_filled_again(self: RedisEntries) -> int:
            cleared.append(clear(self))
            assert entries.write(A, filled(2 * MIB))
            return cleared[-1]

        monkeypatch.setattr(RedisEntries, "clear", cleared_and_filled_again)
        with pytest.raises(StoreFull, match="has reached its maxmemory"):
            put(other, 16 * MIB)
        assert cleared == [8 * MIB]
        assert other.stats().stored_bytes == 0
        assert entries.read(A)


def test_a_server_is_not_full_of_what_makes_room(server: KeyValueServer) -> None:
    with closing(opened(server)) as store:
        entries = entries_of(store)
        assert entries.write(A, filled(48 * MIB))
        put(store, 8 * MIB)
        assert until(lambda: any(each.used_bytes > 8 * MIB for each in store.fullness()))
        (found,) = store.fullness()
        assert found.used_bytes < 40 * MIB


def test_a_server_that_is_gone_is_unavailable_and_one_that_is_back_keeps_new_entries(
    entries: RedisEntries, server: KeyValueServer
) -> None:
    assert entries.write(A, filled(10))
    server.kill()
    for use in (
        lambda: entries.read(A),
        lambda: entries.write(A, filled(10)),
        lambda: entries.discard(A),
        entries.sweep,
        entries.clear,
        entries.usage,
    ):
        with pytest.raises(Unavailable, match=r"the server at redis\+unix:///"):
            use()
    server.start()
    assert entries.read(A) is None
    assert entries.write(A, filled(10))
    assert entries.read(A) == filled(10)


def test_what_a_look_and_a_write_cost_is_the_same_however_many_there_are(
    entries: RedisEntries, server: KeyValueServer
) -> None:
    def sent_by(use: Callable[[], object]) -> int:
        before = int(server.client().info("stats")["total_net_output_bytes"])
        asked = int(server.client().info("stats")["total_net_output_bytes"]) - before
        use()
        return int(server.client().info("stats")["total_net_output_bytes"]) - before - 2 * asked

    def costs() -> list[int]:
        return [sent_by(entries.usage), sent_by(lambda: entries.write(A, filled(10)))]

    few = costs()
    for number in range(2000):
        assert entries.write(f"{number:064x}", filled(10))
    # An entry's own name has 64 digits.
    assert all(many - least < 64 for many, least in zip(costs(), few, strict=True))
    assert entries.usage() == EntryUsage(2001, 20_010, LIMIT_BYTES)


@pytest.mark.parametrize("lost", ["sizes", "used", "total"])
def test_a_list_that_came_to_harm_is_made_good_by_the_next_write(
    entries: RedisEntries, server: KeyValueServer, lost: str
) -> None:
    for name in (A, B):
        assert entries.write(name, filled(10))
    server.client().delete(f"triptych:cache:{lost}")
    assert entries.write(C, filled(10))
    left = 3 if lost == "total" else 1
    assert entries.usage() == EntryUsage(left, 10 * left, LIMIT_BYTES)
    (listed, real) = sizes_there(server, (A, B, C))
    assert listed == real


NAMES = [f"{number:064x}" for number in range(20)]


def write_and_forget(entries: RedisEntries, seed: int) -> None:
    choices = random.Random(seed)
    for _ in range(60):
        name = choices.choice(NAMES)
        if choices.random() < 0.1:
            entries.discard(name)
        if choices.random() < 0.02:
            entries.clear()
        entries.write(name, filled(choices.randint(1, 50_000)))


def sizes_there(
    server: KeyValueServer, names: Sequence[str] = NAMES
) -> tuple[list[int], list[int]]:
    """Of all entries at one time: as they are listed, and as they are."""
    with server.client().pipeline() as commands:
        commands.hvals("triptych:cache:sizes")
        for name in names:
            commands.hstrlen(entry_key(name), "0")
        listed, *real = commands.execute()
    return sorted(map(int, listed)), sorted(each for each in real if each)


def test_however_many_write_what_is_there_is_listed_and_within_the_limit(
    server: KeyValueServer,
) -> None:
    limit_bytes, most_bytes = 200_000, 0
    with ExitStack() as exits:
        stores = [exits.enter_context(closing(opened(server))) for _ in range(4)]
        entries = [entries_of(store, limit_bytes) for store in stores]
        pool = exits.enter_context(ThreadPoolExecutor(4))
        working = [pool.submit(write_and_forget, each, seed) for seed, each in enumerate(entries)]
        while not all(each.done() for each in working):
            listed, real = sizes_there(server)
            assert listed == real
            assert sum(real) <= limit_bytes
            most_bytes = max(most_bytes, sum(real))
        for each in working:
            each.result()
    assert most_bytes > limit_bytes // 2


def user(server: KeyValueServer, tmp_path: Path, rights: str) -> str:
    """The options with which a new user of these rights opens a store."""
    server.client().execute_command("ACL", "SETUSER", "stage", "on", ">secret", *rights.split())
    (tmp_path / "password").write_text("secret\n")
    return f"?username=stage&password_file={tmp_path / 'password'}"


def test_a_user_with_the_documented_rights_can_keep_entries(
    server: KeyValueServer, tmp_path: Path
) -> None:
    with closing(opened(server, user(server, tmp_path, RIGHTS))) as store:
        entries = entries_of(store, 10)
        assert entries.write(A, filled(6))
        assert entries.write(B, filled(6))
        assert entries.read(B)
        assert entries.usage().count == 1
        assert entries.sweep() == 0
        entries.discard(B)
        entries.write(C, filled(7))
        assert entries.clear() == 7


def test_a_user_who_may_keep_none_is_refused_before_any_is_and_has_its_tensors_all_the_same(
    server: KeyValueServer, tmp_path: Path, entries: RedisEntries
) -> None:
    rights = RIGHTS.replace("+zadd", "").replace("+zrem", "")
    with closing(opened(server, user(server, tmp_path, rights))) as store:
        with pytest.raises(ConfigurationError, match="its cache cannot be used: "):
            entries_of(store)
        entries.write(A, filled(10))
        leave_room(server, 6 * MIB)
        put(store, MIB)
        with pytest.raises(StoreFull, match="has reached its maxmemory"):
            put(store, 16 * MIB)
