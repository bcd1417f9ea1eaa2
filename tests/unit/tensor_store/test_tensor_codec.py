import json
import mmap
from collections.abc import Mapping

import hypothesis.strategies as st
import pytest
import torch
import xxhash
from hypothesis import given, settings
from safetensors.torch import load

from services.domain.tensor_ref import TensorSpec
from services.tensor_store.blob_layout import BlobLayout
from services.tensor_store.codec import decode, describe, encode
from triptych.domain.element_type import ElementType
from triptych.domain.errors import TensorCorrupted, Unsupported

SPECS = st.builds(
    TensorSpec,
    name=st.text("ab0_.", max_size=5).map("x".__add__),
    element_type=st.sampled_from(ElementType),
    shape=st.lists(st.integers(0, 5), max_size=4).map(tuple),
)
SPEC_LISTS = st.lists(SPECS, min_size=1, max_size=6, unique_by=lambda spec: spec.name)


def arbitrary(spec: TensorSpec) -> torch.Tensor:
    bits = torch.randint(0, 256, (spec.size_bytes,), dtype=torch.uint8)
    if spec.element_type is ElementType.BOOL:
        bits %= 2
    dtype = getattr(torch, spec.element_type.value)
    if not spec.size_bytes:
        return torch.empty(spec.shape, dtype=dtype)
    return bits.view(dtype).view(spec.shape)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def blob_of(tensors: Mapping[str, torch.Tensor]) -> tuple[memoryview, int]:
    layout = BlobLayout.of(describe(tensors))
    buffer = memoryview(mmap.mmap(-1, layout.size_bytes))
    return buffer, encode(tensors, layout, buffer)


@settings(max_examples=60, deadline=None)
@given(SPEC_LISTS)
def test_a_blob_is_a_safetensors_file(specs: list[TensorSpec]) -> None:
    tensors = {spec.name: arbitrary(spec) for spec in specs}
    blob, checksum = blob_of(tensors)
    assert checksum == xxhash.xxh3_64_intdigest(blob)
    read = load(bytes(blob))
    assert {name: tensor.dtype for name, tensor in read.items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }
    assert {name: tensor.shape for name, tensor in read.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    assert {name: bits(tensor) for name, tensor in read.items()} == {
        name: bits(tensor) for name, tensor in tensors.items()
    }


@settings(max_examples=60, deadline=None)
@given(SPEC_LISTS)
def test_data_is_aligned_and_without_holes(specs: list[TensorSpec]) -> None:
    layout = BlobLayout.of(specs)
    assert len(layout.header) % 64 == 0
    assert all(layout.offsets[spec.name] % spec.element_type.size_bytes == 0 for spec in specs)
    assert layout.size_bytes == len(layout.header) + sum(spec.size_bytes for spec in specs)


def test_the_order_of_the_tensors_is_kept() -> None:
    tensors = {"z": torch.zeros(1, dtype=torch.uint8), "a": torch.zeros(1)}
    layout = BlobLayout.of(describe(tensors))
    blob, _ = blob_of(tensors)
    assert list(decode(layout, blob)) == ["z", "a"]


def test_the_checksum_of_more_than_one_chunk_is_that_of_the_blob() -> None:
    blob, checksum = blob_of({"x": torch.rand(700_001), "y": torch.rand(600_000, 2).T})
    assert checksum == xxhash.xxh3_64_intdigest(blob)


def test_a_tensor_that_needs_gradients_is_stored_without_them() -> None:
    weights = torch.rand(3, requires_grad=True)
    blob, _ = blob_of({"x": weights})
    stored = decode(BlobLayout.of(describe({"x": weights})), blob)["x"]
    assert torch.equal(stored, weights.detach())


def header(entries: Mapping[str, object]) -> bytes:
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "forged",
    [
        b"",
        b"\xff" * 8,
        (2**63).to_bytes(8, "little") + b"{}",
        header({}),
        header({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}}),
        header({"x": {"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}}),
        header({"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}),
        header({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}),
        header({"y": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    ],
)
def test_any_other_header_is_corrupt(forged: bytes) -> None:
    tensors = {"x": torch.zeros(4)}
    layout = BlobLayout.of(describe(tensors))
    blob, _ = blob_of(tensors)
    whole = bytearray(layout.size_bytes)
    whole[: len(forged)] = forged[: layout.size_bytes]
    decode(layout, blob)
    with pytest.raises(TensorCorrupted, match="header"):
        decode(layout, memoryview(whole))


def test_a_blob_of_another_size_is_corrupt() -> None:
    tensors = {"x": torch.zeros(4)}
    blob, _ = blob_of(tensors)
    with pytest.raises(TensorCorrupted):
        decode(BlobLayout.of(describe(tensors)), blob[:-1])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "0 of them; allowed are 1 to 64"),
        ({f"x{n}": torch.zeros(1) for n in range(65)}, "65 of them"),
        ({"x": torch.zeros(1, dtype=torch.complex64)}, "element type is complex64; allowed are"),
        ({"x": torch.zeros(1, device="meta")}, "'x': has no dense data"),
        ({"x": torch.zeros(2, 2).to_sparse()}, "'x': has no dense data"),
        ({"X": torch.zeros(1)}, "'X' of shape"),
        ({"x": torch.zeros([1] * 9)}, "at most 8 dimensions"),
    ],
)
def test_tensors_that_cannot_be_stored_are_refused_by_name(
    tensors: Mapping[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(Unsupported, match=message):
        describe(tensors)
