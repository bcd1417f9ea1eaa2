"""What every artifact store promises, wherever it keeps the bytes."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.artifacts.object_place import READ_BYTES
from services.artifacts.room import LEAST_BYTES, REFRESH_SECONDS, Limits
from services.artifacts.s3 import PART_BYTES
from tests.unit.artifacts.artifact_places import (
    PLACES,
    QUOTA_BYTES,
    TTL_SECONDS,
    Door,
    door,
    key_of,
)
from triptych.domain.errors import (
    AlreadyExists,
    ArtifactNotFound,
    OutOfRange,
    QuotaExceeded,
    ResourceExhausted,
    TriptychError,
)

DATA = bytes(range(256)) * 20


@pytest.fixture(params=PLACES)
def opened(request: pytest.FixtureRequest) -> Iterator[Door]:
    with door(request.param) as made:
        yield made


@pytest.fixture(params=[name for name in PLACES if name != "memory"])
def shared(request: pytest.FixtureRequest) -> Iterator[Door]:
    """The places that other processes share."""
    with door(request.param) as made:
        yield made


def got(opened: Door, key: ArtifactKey, offset: int = 0) -> bytes:
    return b"".join(opened.reader.read(key, offset)[1])


@pytest.mark.parametrize("size_bytes", [0, 1, 5000, READ_BYTES - 1000])
def test_every_byte_comes_back(opened: Door, size_bytes: int) -> None:
    data = (DATA * (size_bytes // len(DATA) + 1))[:size_bytes]
    opened.put(data)
    assert got(opened, key_of()) == data


def test_an_artifact_is_described_without_its_bytes(opened: Door) -> None:
    put = opened.put(DATA)
    stat = opened.reader.stat(key_of())
    assert stat == put
    assert (stat.content_type, stat.size_bytes, stat.description) == (
        "image/png",
        len(DATA),
        "described",
    )
    assert stat.checksum_xxh3 == xxhash.xxh3_64_intdigest(DATA)
    assert stat.expires_at == opened.clock.now + TTL_SECONDS


def test_a_read_begins_at_any_offset_and_ends_at_the_end(opened: Door) -> None:
    opened.put(DATA)
    for offset in (0, 1, 999, len(DATA) - 1, len(DATA)):
        assert got(opened, key_of(), offset) == DATA[offset:]
    with pytest.raises(OutOfRange, match=f"is {len(DATA) + 1}; the artifact has {len(DATA)} bytes"):
        opened.reader.read(key_of(), len(DATA) + 1)


def test_no_chunk_is_larger_than_a_message_can_carry(opened: Door) -> None:
    limits = Limits()
    with opened.store.begin(key_of(), ttl_seconds=9, limits=limits) as writer:
        writer.write(bytes(QUOTA_BYTES - LEAST_BYTES))
        writer.commit("video/mp4")
    sizes = [len(chunk) for chunk in opened.reader.read(key_of())[1]]
    assert sum(sizes) == QUOTA_BYTES - LEAST_BYTES
    assert max(sizes) <= READ_BYTES


def test_nothing_is_there_before_it_is_committed(opened: Door) -> None:
    with opened.store.begin(key_of(), ttl_seconds=9) as writer:
        writer.write(DATA)
        with pytest.raises(ArtifactNotFound):
            opened.reader.stat(key_of())
    with pytest.raises(ArtifactNotFound):
        opened.reader.stat(key_of())
    assert opened.names() == []


def test_an_id_that_is_taken_keeps_its_first_artifact(opened: Door) -> None:
    opened.put(DATA)
    before = sorted(opened.names())
    with pytest.raises(AlreadyExists):
        opened.put(b"other")
    assert got(opened, key_of()) == DATA
    assert sorted(opened.names()) == before


def test_of_writers_of_one_id_at_once_one_succeeds(opened: Door) -> None:
    begun = threading.Barrier(4)

    def write(number: int) -> bool:
        with opened.store.begin(key_of(), ttl_seconds=9) as writer:
            writer.write(bytes([number]) * 5000)
            begun.wait(20)
            try:
                writer.commit("image/png")
            except AlreadyExists:
                return False
            return True

    with ThreadPoolExecutor(4) as threads:
        kept = [*threads.map(write, range(4))]
    assert kept.count(True) == 1
    assert got(opened, key_of()) == bytes([kept.index(True)]) * 5000


def test_what_has_expired_is_not_there_whether_swept_or_not(opened: Door) -> None:
    opened.put(DATA, "a")
    opened.clock.now += TTL_SECONDS / 2
    opened.put(DATA, "b")
    opened.clock.now += TTL_SECONDS / 2 + 1.5
    with pytest.raises(ArtifactNotFound, match=r"artifact_id: 'a' is not here \(any more\)"):
        opened.reader.stat(key_of("a"))
    assert [each.artifact_id for each in opened.reader.list("tenant")] == ["b"]
    assert opened.reader.sweep() == 1
    assert len(opened.names()) == 2
    assert got(opened, key_of("b")) == DATA


def test_bytes_that_a_killed_writer_left_without_a_record_are_swept(opened: Door) -> None:
    name, _ = opened.store.place_name(key_of(), TTL_SECONDS)
    opened.place.create(name, DATA, "image/png")
    with pytest.raises(ArtifactNotFound):
        opened.reader.stat(key_of())
    assert [*opened.reader.list("tenant")] == []
    opened.clock.now += TTL_SECONDS + 2
    assert opened.store.sweep() == 0
    assert opened.names() == []


def test_a_deleted_artifact_is_gone_and_makes_room(opened: Door) -> None:
    limits = Limits(tenant_bytes=2 * LEAST_BYTES)
    opened.put(DATA, limits=limits)
    with pytest.raises(QuotaExceeded):
        opened.put(DATA, "b", limits=limits)
    assert opened.store.delete(key_of())
    assert not opened.store.delete(key_of())
    opened.put(DATA, "b", limits=limits)
    with pytest.raises(ArtifactNotFound):
        got(opened, key_of())


def test_a_tenants_quota_is_named_and_no_other_tenants(opened: Door) -> None:
    limits = Limits(tenant_bytes=len(DATA) + LEAST_BYTES)
    opened.put(DATA, limits=limits)
    with pytest.raises(QuotaExceeded, match="quota: artifact_bytes is 9216 and used up") as caught:
        opened.put(DATA, "b", limits=limits)
    assert caught.value.retry_after_seconds
    opened.put(DATA, tenant="another", limits=limits)


def test_what_is_refused_leaves_no_room_taken(opened: Door) -> None:
    limits = Limits(tenant_bytes=len(DATA) + LEAST_BYTES)
    for _ in range(3):
        with opened.store.begin(key_of(), ttl_seconds=9, limits=limits) as writer:
            writer.write(DATA)
            with pytest.raises(QuotaExceeded):
                writer.write(DATA)
    opened.put(DATA, limits=limits)


def test_what_has_expired_makes_room_without_a_sweep(opened: Door) -> None:
    limits = Limits(tenant_bytes=len(DATA))
    opened.put(DATA, limits=limits)
    opened.clock.now += TTL_SECONDS + 2
    opened.put(DATA, "b", limits=limits)


def test_tiny_artifacts_count_with_what_keeping_them_takes(opened: Door) -> None:
    limits = Limits(tenant_bytes=3 * LEAST_BYTES)
    for number in range(3):
        opened.put(b"", str(number), limits=limits)
    with pytest.raises(QuotaExceeded):
        opened.put(b"", "3", limits=limits)


def test_a_share_leaves_the_rest_of_the_quotas_to_others(opened: Door) -> None:
    half = Limits(tenant_bytes=4 * LEAST_BYTES, share=0.5)
    for number in range(2):
        opened.put(b"", str(number), limits=half)
    with pytest.raises(QuotaExceeded):
        opened.put(b"", "2", limits=half)
    opened.put(b"", "2", limits=Limits(tenant_bytes=4 * LEAST_BYTES))


def test_a_full_store_says_so(opened: Door) -> None:
    opened.put(bytes(QUOTA_BYTES))
    with pytest.raises(ResourceExhausted, match="quota_bytes of the store is 1048576 and used up"):
        opened.put(b"", "b", tenant="another")


def test_what_is_arriving_counts_from_several_threads_and_never_exceeds_the_quota(
    opened: Door,
) -> None:
    limits = Limits(tenant_bytes=10 * LEAST_BYTES)

    def put(number: int) -> bool:
        try:
            opened.put(bytes(LEAST_BYTES), str(number), limits=limits)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        kept = [*threads.map(put, range(16))]
    assert kept.count(True) == 10
    assert len([*opened.reader.list("tenant")]) == 10


def test_what_another_process_kept_counts_once_it_has_been_seen(shared: Door) -> None:
    limits = Limits(tenant_bytes=2 * LEAST_BYTES)
    with shared.reader.begin(key_of("b"), ttl_seconds=60, limits=limits) as writer:
        writer.commit("image/png")
    shared.put(bytes(2 * LEAST_BYTES), "a")
    shared.clock.now += REFRESH_SECONDS
    with (
        pytest.raises(QuotaExceeded),
        shared.reader.begin(key_of("c"), ttl_seconds=60, limits=limits) as writer,
    ):
        writer.commit("image/png")


def test_the_ids_of_one_kind_name_nothing_of_the_other(opened: Door) -> None:
    opened.put(DATA, kind=ArtifactKind.UPLOAD)
    with pytest.raises(ArtifactNotFound):
        opened.reader.stat(key_of())
    opened.put(b"result")
    assert got(opened, key_of()) == b"result"


@pytest.mark.parametrize(
    "artifact_id",
    ["", ".", "..", "../another/result.a", "/etc/passwd", "a/b", "a\0b", "a" * 65, "ä", "a.1.2"],
)
def test_an_id_that_no_artifact_may_have_is_not_found_and_not_written(
    opened: Door, artifact_id: str
) -> None:
    with pytest.raises(ArtifactNotFound):
        opened.reader.stat(key_of(artifact_id))
    assert not opened.store.delete(key_of(artifact_id))
    with pytest.raises(ValueError, match="is no key of an artifact"):
        opened.store.begin(key_of(artifact_id), ttl_seconds=9)


NAMES = st.one_of(
    st.sampled_from(["a", "b", "a.1", "tenant", "another", "result.a", "../tenant/result.a"]),
    st.text(alphabet="ab./%\0-", max_size=12),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(owners=st.sets(st.tuples(NAMES, NAMES), max_size=4), asked=st.tuples(NAMES, NAMES))
@pytest.mark.parametrize("place", ["memory", "file"])
def test_nobody_gets_what_another_tenant_keeps(
    place: str, owners: set[tuple[str, str]], asked: tuple[str, str]
) -> None:
    with door(place) as opened:
        kept = {}
        for tenant, artifact_id in owners:
            if key_of(artifact_id, tenant).names_something:
                data = f"{tenant} {artifact_id}".encode()
                opened.put(data, artifact_id, tenant)
                kept[tenant, artifact_id] = data
        tenant, artifact_id = asked
        try:
            data = got(opened, key_of(artifact_id, tenant))
        except ArtifactNotFound:
            data = None
        assert data == kept.get(asked)
        if key_of("a", tenant).names_something:
            listed = {each.artifact_id for each in opened.reader.list(tenant)}
            assert listed == {own for owner, own in kept if owner == tenant}
        assert opened.store.delete(key_of(artifact_id, tenant)) == (asked in kept)
        for (owner, own), whole in kept.items():
            if (owner, own) != asked:
                assert got(opened, key_of(own, owner)) == whole


def test_a_read_of_what_is_deleted_meanwhile_never_gives_other_bytes(opened: Door) -> None:
    size_bytes = QUOTA_BYTES
    with opened.store.begin(key_of(), ttl_seconds=9) as writer:
        writer.write(b"x" * size_bytes)
        writer.commit("image/png")
    _, chunks = opened.reader.read(key_of())
    opened.store.delete(key_of())
    with suppress(ArtifactNotFound):
        assert b"".join(chunks) == b"x" * size_bytes


def test_a_signed_url_gives_the_bytes_to_anybody_and_nothing_unsigned_does() -> None:
    with door("s3") as opened:
        opened.put(DATA)
        url = opened.reader.url(key_of(), 30)
        assert url is not None
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.read() == DATA
            assert answer.headers["content-type"] == "image/png"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url.partition("?")[0], timeout=20)
        with pytest.raises(ArtifactNotFound):
            opened.reader.url(key_of(tenant="another"), 30)


@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_place_without_urls_gives_none(place: str) -> None:
    with door(place) as opened:
        opened.put(DATA)
        assert opened.reader.url(key_of(), 30) is None


def test_what_is_larger_than_a_part_goes_to_s3_in_parts() -> None:
    data = b"".join(number.to_bytes(4) for number in range(PART_BYTES // 4 + 300_000))
    with door("s3") as opened:
        opened.store = type(opened.store)(opened.place, clock=opened.clock)
        with opened.store.begin(key_of(), ttl_seconds=9) as writer:
            for start in range(0, len(data), 1 << 20):
                writer.write(data[start : start + (1 << 20)])
            writer.commit("video/mp4")
        assert got(opened, key_of()) == data
        assert got(opened, key_of(), len(data) - 7) == data[-7:]


def test_a_record_that_is_damaged_is_an_error_that_says_so(opened: Door) -> None:
    opened.place.create("records/tenant/result.a", b"{}", "application/json")
    with pytest.raises(TriptychError, match="the record of 'a' is damaged"):
        opened.reader.stat(key_of())
