from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from services.domain.tensor_ref import MAX_INLINE_BYTES, Seal, TensorRef, TensorSpec
from services.rpc.tables import REFS
from tests.unit.domain.examples import TENSOR_REF
from triptych.domain.element_type import ElementType
from triptych.domain.errors import TensorRefused
from triptych.v1 import tensor_pb2

SEAL = Seal(SecretStr("s" * 32))

identifiers = st.binary(min_size=16, max_size=16).map(bytes.hex)
specs = st.builds(
    TensorSpec,
    name=st.from_regex(r"[a-z][a-z0-9_.]{0,63}", fullmatch=True),
    element_type=st.sampled_from(ElementType),
    shape=st.lists(st.integers(0, 2**62), max_size=8).map(tuple),
)
refs = st.builds(
    TensorRef,
    store=identifiers.map(lambda each: f"shm:{each}"),
    owner=identifiers,
    key=identifiers,
    tensors=st.lists(specs, min_size=1, max_size=3).map(tuple),
    size_bytes=st.integers(0, 2**63 - 1),
    checksum_xxh3=st.integers(0, 2**64 - 1),
    expire_time=st.floats(1, 1e10),
    tenant=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    request_id=identifiers,
    inline_blob=st.binary(max_size=20),
)


def _spec(**fields: Any) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(**fields)


@given(refs)
def test_a_sealed_reference_passes_its_check_after_the_wire(ref: TensorRef) -> None:
    signed = SEAL.sign(ref)
    sent = REFS.write(signed).SerializeToString()
    back = REFS.read(tensor_pb2.TensorRef.FromString(sent))
    assert back == signed
    SEAL.check(back)


def test_no_field_of_a_reference_is_left_behind() -> None:
    message = REFS.write(TENSOR_REF.model_copy(update={"inline_blob": b"x"}))
    wire = tensor_pb2.TensorRef.DESCRIPTOR.fields_by_name
    assert {field.name for field, _ in message.ListFields()} == set(wire)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store", "/dev/shm"),
        ("owner", ""),
        ("key", "../../../etc/passwd"),
        ("tenant", "a/b"),
        ("request_id", "x"),
        ("tensors", []),
        ("tensors", [_spec(name="A", element_type=1)]),
        ("tensors", [_spec(name="a", element_type=1, shape=[-1])]),
        ("tensors", [_spec(name="a", element_type=1, shape=[1] * 9)]),
        ("tensors", [_spec(name="a", element_type=0)]),
        ("tensors", [_spec(name="a", element_type=99)]),
        ("mac", b"x" * 33),
        ("inline_blob", b"x" * (MAX_INLINE_BYTES + 1)),
        ("expire_time", Timestamp()),
        ("expire_time", Timestamp(seconds=2**62)),
        ("expire_time", Timestamp(seconds=-(2**62))),
    ],
)
def test_a_malformed_reference_is_refused_by_field_and_without_its_value(
    field: str, value: Any
) -> None:
    message = REFS.write(TENSOR_REF)
    message.ClearField(field)
    message.MergeFrom(tensor_pb2.TensorRef(**{field: value}))
    with pytest.raises(TensorRefused) as caught:
        REFS.read(message, "latents.")
    assert str(caught.value) == f"latents: malformed tensor reference ({field})"


def test_an_absent_reference_is_refused() -> None:
    with pytest.raises(TensorRefused, match="conditioning: malformed"):
        REFS.read(tensor_pb2.TensorRef(), "conditioning.")
