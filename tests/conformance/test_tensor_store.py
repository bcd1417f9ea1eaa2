"""What every tensor store promises, whichever backend keeps the bytes."""

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from services.domain.store_control import Bound, Fullness
from services.domain.tensor_ref import Seal, TensorRef
from services.tensor_store.memory import MemoryBlobStore, MemoryOptions
from tests.conformance.store_backends import (
    BACKENDS,
    LOCAL,
    MIB,
    OTHER_REQUEST,
    QUOTA_BYTES,
    REQUEST,
    SEAL,
    STORING,
    TENANT,
    TTL_SECONDS,
    Backend,
    over,
)
from triptych.domain.element_type import ElementType
from triptych.domain.errors import (
    StoreFull,
    TensorCorrupted,
    TensorNotFound,
    TensorRefused,
    Unavailable,
    Unsupported,
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from BACKENDS[request.param]()


@pytest.fixture(params=STORING)
def storing(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backends that keep bytes apart from the reference."""
    yield from STORING[request.param]()


@pytest.fixture(params=LOCAL)
def local(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backends whose processes have a quota and look for what is expired."""
    yield from LOCAL[request.param]()


def bits(tensor: torch.Tensor) -> list[int]:
    raw: list[int] = tensor.contiguous().reshape(-1).view(torch.uint8).tolist()
    return raw


@pytest.mark.parametrize("element_type", ElementType)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3, 5)])
def test_every_bit_comes_back(
    backend: Backend, element_type: ElementType, shape: tuple[int, ...]
) -> None:
    dtype = getattr(torch, element_type)
    limit = 2 if element_type is ElementType.BOOL else 256
    count = math.prod(shape) * element_type.size_bytes
    tensor = torch.randint(0, limit, (count,), dtype=torch.uint8).view(dtype).view(shape)
    back = backend.got(backend.put({"x": tensor, "y": tensor}))
    assert list(back) == ["x", "y"]
    for each in back.values():
        assert each.dtype == dtype
        assert each.shape == shape
        assert bits(each) == bits(tensor)


def test_not_a_number_keeps_its_payload(backend: Backend) -> None:
    payload = torch.tensor([0x7FC0_1234, -0x0000_5679], dtype=torch.int32).view(torch.float32)
    assert bits(backend.got(backend.put({"x": payload}))["x"]) == bits(payload)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(4, 6).T,
        torch.rand(4, 6)[::2, 1::3],
        torch.rand(1, 3).expand(5, 3),
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(500, 500).T,
    ],
    ids=["transposed", "strided", "expanded", "channels_last", "large"],
)
def test_any_strides_come_back_contiguous(backend: Backend, tensor: torch.Tensor) -> None:
    back = backend.got(backend.put({"x": tensor}))["x"]
    assert back.is_contiguous()
    assert torch.equal(back, tensor)


def test_tensors_larger_than_a_cache_come_back(storing: Backend) -> None:
    tensors = {"x": torch.rand(700_001), "y": torch.randint(0, 9, (300_000,))}
    back = storing.got(storing.put(tensors))
    assert torch.equal(back["x"], tensors["x"])
    assert torch.equal(back["y"], tensors["y"])


def test_data_begins_at_the_same_place_of_a_cache_line_in_every_store(backend: Backend) -> None:
    ref = backend.put({"x": torch.rand(3), "y": torch.rand(5, dtype=torch.float64)})
    with backend.reader.get(ref, tenant=TENANT, request_id=REQUEST) as tensors:
        assert tensors["y"].data_ptr() % 64 == 0
        assert tensors["x"].data_ptr() % 64 == 40


def test_what_is_put_is_a_copy(backend: Backend) -> None:
    tensor = torch.ones(3)
    ref = backend.put({"x": tensor})
    tensor.zero_()
    assert torch.equal(backend.got(ref)["x"], torch.ones(3))


def test_the_reference_describes_the_tensors(backend: Backend) -> None:
    ref = backend.put({"x": torch.ones(2, 3, dtype=torch.bfloat16)})
    (spec,) = ref.tensors
    assert (spec.name, spec.element_type, spec.shape) == ("x", ElementType.BFLOAT16, (2, 3))
    assert (ref.tenant, ref.request_id) == (TENANT, REQUEST)
    assert ref.expire_time == backend.clock.now + TTL_SECONDS


def test_many_may_read_at_once(backend: Backend) -> None:
    ref = backend.put({"x": torch.ones(3)})
    with backend.reader.get(ref, tenant=TENANT, request_id=REQUEST) as first:
        assert torch.equal(backend.got(ref)["x"], first["x"])


def test_releasing_does_not_change_what_is_being_read(backend: Backend) -> None:
    ref = backend.put({"x": torch.ones(1000)})
    with backend.reader.get(ref, tenant=TENANT, request_id=REQUEST) as tensors:
        backend.reader.release(ref)
        backend.put({"x": torch.zeros(1000)})
        assert torch.equal(tensors["x"], torch.ones(1000))


def test_the_mapping_is_empty_after_its_context(backend: Backend) -> None:
    ref = backend.put({"x": torch.ones(3)})
    with backend.reader.get(ref, tenant=TENANT, request_id=REQUEST) as tensors:
        pass
    assert not tensors


def test_a_tensor_kept_beyond_its_context_never_shows_other_bytes(backend: Backend) -> None:
    ref = backend.put({"x": torch.ones(1000)})
    with backend.reader.get(ref, tenant=TENANT, request_id=REQUEST) as tensors:
        kept = tensors["x"]
    backend.store.release(ref)
    for _ in range(3):
        backend.put({"x": torch.zeros(1000)})
    assert torch.equal(kept, torch.ones(1000))


def _forgeries() -> dict[str, Callable[[TensorRef], object]]:
    return {
        "store": lambda ref: "shm:" + "0" * 32,
        "owner": lambda ref: "0" * 32,
        "key": lambda ref: "0" * 32,
        "tensors": lambda ref: (ref.tensors[0].model_copy(update={"shape": (4,)}),),
        "size_bytes": lambda ref: ref.size_bytes + 1,
        "checksum_xxh3": lambda ref: ref.checksum_xxh3 ^ 1,
        "expire_time": lambda ref: ref.expire_time + 1,
        "tenant": lambda ref: "thief",
        "request_id": lambda ref: OTHER_REQUEST,
        "mac": lambda ref: bytes(32),
    }


@pytest.mark.parametrize("field_name", _forgeries())
def test_a_forged_reference_is_refused(backend: Backend, field_name: str) -> None:
    ref = backend.put({"x": torch.ones(3)})
    forged = ref.model_copy(update={field_name: _forgeries()[field_name](ref)})
    assert "signature" in str(backend.error(forged, forged.tenant, forged.request_id))
    with pytest.raises(TensorRefused, match="signature"):
        backend.store.release(forged)
    assert backend.got(ref)


def test_a_reference_signed_with_another_secret_is_refused(backend: Backend) -> None:
    ref = backend.put({"x": torch.ones(3)})
    assert isinstance(backend.error(Seal(SecretStr("t" * 32)).sign(ref)), TensorRefused)


def test_another_tenant_is_refused(backend: Backend) -> None:
    error = backend.error(backend.put({"x": torch.ones(3)}), tenant="thief")
    assert isinstance(error, TensorRefused)


def test_another_request_is_refused(backend: Backend) -> None:
    error = backend.error(backend.put({"x": torch.ones(3)}), request=OTHER_REQUEST)
    assert isinstance(error, TensorRefused)


def test_another_store_is_refused_and_both_are_named(storing: Backend) -> None:
    with closing(over(MemoryBlobStore(MemoryOptions()), storing.clock)) as other:
        ref = other.put({"x": torch.ones(3)}, tenant=TENANT, request_id=REQUEST)
        error = storing.error(ref)
        assert isinstance(error, TensorRefused)
        assert other.identity in str(error)
        assert storing.store.identity in str(error)
        with pytest.raises(TensorRefused, match="its store is"):
            storing.store.release(ref)


def test_a_stored_set_that_also_came_inline_is_refused(storing: Backend) -> None:
    ref = storing.put({"x": torch.ones(3)})
    error = storing.error(SEAL.sign(ref.model_copy(update={"inline_blob": b"x"})))
    assert isinstance(error, TensorRefused)
    assert "inline_blob" in str(error)


def test_a_signed_reference_of_the_wrong_size_is_refused(backend: Backend) -> None:
    ref = backend.put({"x": torch.ones(3)})
    wrong = SEAL.sign(ref.model_copy(update={"size_bytes": 2**50}))
    error = backend.error(wrong)
    assert isinstance(error, TensorRefused)
    assert str(2**50) in str(error)


def test_released_tensors_are_not_found_and_not_released_again(storing: Backend) -> None:
    ref = storing.put({"x": torch.ones(3)})
    assert storing.store.stats().stored_count == 1
    assert storing.reader.release(ref)
    assert storing.store.stats().stored_count == 0
    assert not storing.store.release(ref)
    assert isinstance(storing.error(ref), TensorNotFound)


@pytest.mark.parametrize("position", [1, 100, 4000], ids=["last", "middle", "header"])
def test_a_changed_byte_is_reported_as_corrupt(backend: Backend, position: int) -> None:
    ref = backend.put({"x": torch.ones(1000)})
    spoiled = backend.spoil(ref, position if position < 4000 else ref.size_bytes)
    # Signed again where the bytes are part of the reference: this is about what the checksum sees.
    assert isinstance(backend.error(SEAL.sign(spoiled)), TensorCorrupted)


def test_inline_bytes_are_under_the_signature() -> None:
    for inline in BACKENDS["inline"]():
        ref = inline.put({"x": torch.ones(1000)})
        assert isinstance(inline.error(inline.spoil(ref, 1)), TensorRefused)


def test_a_request_is_released_alone_and_whole(storing: Backend) -> None:
    own = [storing.put({"x": torch.ones(3)}) for _ in range(3)]
    other = storing.put({"x": torch.ones(3)}, OTHER_REQUEST)
    of_tenant = storing.store.put({"x": torch.ones(3)}, tenant="tenant2", request_id=REQUEST)
    assert storing.reader.release_request(TENANT, REQUEST) == 3
    assert storing.reader.release_request(TENANT, REQUEST) == 0
    assert all(isinstance(storing.error(ref), TensorNotFound) for ref in own)
    assert storing.got(other, OTHER_REQUEST)
    assert storing.reader.release(of_tenant)


@pytest.mark.parametrize("size_bytes", [QUOTA_BYTES, 6 * MIB])
def test_a_full_store_refuses_and_keeps_nothing_of_what_it_refused(
    local: Backend, size_bytes: int
) -> None:
    kept = local.put({"x": torch.ones(MIB)})
    before = local.store.stats()
    with pytest.raises(StoreFull, match=f"quota_bytes {QUOTA_BYTES}"):
        local.put({"x": torch.ones(size_bytes, dtype=torch.uint8)})
    assert local.store.stats() == before
    local.store.release(kept)
    local.put({"x": torch.ones(6 * MIB, dtype=torch.uint8)})


def test_a_quota_is_as_full_as_the_process_that_holds_most_has_filled_it(local: Backend) -> None:
    def of_quota() -> Fullness:
        (found,) = (each for each in local.reader.fullness() if each.bound == Bound.QUOTA)
        return found

    assert of_quota() == Fullness(Bound.QUOTA, 0, QUOTA_BYTES)
    ref = local.put({"x": torch.ones(4 * MIB, dtype=torch.uint8)})
    assert 4 * MIB <= of_quota().used_bytes < 5 * MIB
    local.store.release(ref)
    assert of_quota().used_bytes == 0


def test_a_put_that_fails_stores_nothing(storing: Backend) -> None:
    with pytest.raises(Unsupported):
        storing.put({"x": torch.ones(3), "y": torch.ones(3, dtype=torch.complex64)})
    assert storing.store.stats().stored_count == 0


def test_a_writer_that_fails_takes_no_room(storing: Backend) -> None:
    blobs = storing.store._blobs
    for _ in range(3):
        with (
            pytest.raises(ZeroDivisionError),
            blobs.reserve(TENANT, REQUEST, 6 * MIB, 2.0**40),
        ):
            raise ZeroDivisionError
    assert storing.store.stats().stored_count == 0
    storing.put({"x": torch.ones(6 * MIB, dtype=torch.uint8)})


@pytest.mark.parametrize(
    ("tenant", "request_id"),
    [("../tenant", REQUEST), ("", REQUEST), ("a.b", REQUEST), (TENANT, "A" * 32), (TENANT, "../x")],
)
def test_a_malformed_scope_is_refused(backend: Backend, tenant: str, request_id: str) -> None:
    with pytest.raises(TensorRefused, match=r"tenant|request_id"):
        backend.store.put({"x": torch.ones(3)}, tenant=tenant, request_id=request_id)
    with pytest.raises(TensorRefused, match=r"tenant|request_id"):
        backend.store.release_request(tenant, request_id)


def test_threads_do_not_disturb_one_another(backend: Backend) -> None:
    threads = 8
    together = threading.Barrier(threads)

    def work(number: int) -> None:
        together.wait()
        for turn in range(20):
            tensor = torch.full((5000 + number,), float(number * 100 + turn))
            ref = backend.put({"x": tensor})
            assert torch.equal(backend.got(ref)["x"], tensor)
            backend.reader.release(ref)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    assert backend.store.stats().stored_count == 0


def test_readers_see_all_of_what_they_asked_for_or_nothing(storing: Backend) -> None:
    newest: list[tuple[TensorRef, float]] = []
    done = threading.Event()

    def read() -> int:
        seen = 0
        last_pass = False
        while not last_pass:
            # The newest is never released, so that the last pass sees something.
            last_pass = done.is_set()
            for ref, fill in newest[-2:]:
                try:
                    with storing.reader.get(ref, tenant=TENANT, request_id=REQUEST) as tensors:
                        assert tensors["x"].eq(fill).all()
                        seen += 1
                except TensorNotFound:
                    continue
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for turn in range(500):
                ref = storing.put({"x": torch.full((2000,), float(turn))})
                newest.append((ref, float(turn)))
                if turn:
                    storing.store.release(newest[turn - 1][0])
        finally:
            done.set()
        assert all(reader.result() for reader in readers)


def test_statistics_count_what_is_stored(storing: Backend) -> None:
    ref = storing.put({"x": torch.ones(3)})
    stats = storing.reader.stats()
    assert stats.identity == storing.store.identity
    assert stats.stored_count == 1
    assert stats.stored_bytes >= ref.size_bytes


def test_a_closed_store_takes_nothing(storing: Backend) -> None:
    storing.store.close()
    with pytest.raises(Unavailable, match="closed"):
        storing.put({"x": torch.ones(3)})


def test_a_closed_store_keeps_nothing_in_its_process(local: Backend) -> None:
    ref = local.put({"x": torch.ones(3)})
    local.store.close()
    assert isinstance(local.error(ref), TensorNotFound)
