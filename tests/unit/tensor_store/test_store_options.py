from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from services.domain.tensor_ref import Seal
from services.tensor_store.memory import MemoryBlobStore, MemoryOptions
from services.tensor_store.tensor_store import TensorStore, open_store
from triptych.domain.errors import TensorCorrupted

TTL_SECONDS = 60.0
TENANT, REQUEST = "tenant", "a" * 32
SEAL = Seal(SecretStr("s" * 32))


def test_small_sets_travel_inside_their_reference_and_large_ones_do_not() -> None:
    with closing(
        open_store("memory:", seal=SEAL, ttl_seconds=TTL_SECONDS, inline_bytes=1000)
    ) as store:
        small = store.put({"x": torch.ones(3)}, tenant=TENANT, request_id=REQUEST)
        large = store.put({"x": torch.ones(1000)}, tenant=TENANT, request_id=REQUEST)
        assert (small.store, len(small.inline_blob)) == ("inline:", small.size_bytes)
        assert (large.store, large.inline_blob) == (store.identity, b"")
        assert store.stats().stored_count == 1
        assert not store.release(small)


def test_an_inline_blob_of_another_length_is_corrupt() -> None:
    with closing(
        open_store("memory:", seal=SEAL, ttl_seconds=TTL_SECONDS, inline_bytes=1000)
    ) as store:
        ref = store.put({"x": torch.ones(3)}, tenant=TENANT, request_id=REQUEST)
        cut = SEAL.sign(ref.model_copy(update={"inline_blob": ref.inline_blob[:-1]}))
        with (
            pytest.raises(TensorCorrupted, match="bytes came, expected"),
            store.get(cut, tenant=TENANT, request_id=REQUEST),
        ):
            pass


def test_without_verification_the_header_is_checked_all_the_same() -> None:
    blobs = MemoryBlobStore(MemoryOptions(verify=False))
    with closing(TensorStore(blobs, SEAL, ttl_seconds=TTL_SECONDS)) as store:
        ref = store.put({"x": torch.ones(3)}, tenant=TENANT, request_id=REQUEST)
        (blob,) = blobs._blobs.values()
        stored = memoryview(blob.buffer.obj)
        stored[-1] ^= 1
        with store.get(ref, tenant=TENANT, request_id=REQUEST) as tensors:
            assert not torch.equal(tensors["x"], torch.ones(3))
        stored[0] ^= 1
        with (
            pytest.raises(TensorCorrupted, match="header"),
            store.get(ref, tenant=TENANT, request_id=REQUEST),
        ):
            pass
