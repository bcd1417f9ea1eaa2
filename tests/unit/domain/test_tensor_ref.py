import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from services.domain.tensor_ref import Seal, TensorRef, TensorSpec
from tests.unit.domain.examples import TENSOR_REF
from triptych.domain.element_type import ElementType
from triptych.domain.errors import TensorRefused

SEAL = Seal(SecretStr("s" * 32))
_SPEC = TENSOR_REF.tensors[0]

# One other legal value for every field that the seal covers.
OTHER_VALUES: dict[str, object] = {
    "store": f"shm:{'6' * 32}",
    "owner": "e" * 32,
    "key": "e" * 32,
    "tensors": (_SPEC, _SPEC),
    "size_bytes": 4097,
    "checksum_xxh3": 0,
    "expire_time": 1_800_000_000.123457,
    "tenant": "other",
    "request_id": "e" * 32,
    "inline_blob": b"other bytes",
}
OTHER_SPECS = [
    _SPEC.model_copy(update={"name": "other"}),
    _SPEC.model_copy(update={"element_type": ElementType.FLOAT16}),
    _SPEC.model_copy(update={"shape": (1, 64, 17)}),
    _SPEC.model_copy(update={"shape": (17, 64)}),
]


def test_a_signed_reference_passes() -> None:
    SEAL.check(SEAL.sign(TENSOR_REF))


def test_every_field_but_the_mac_has_a_test_of_its_own() -> None:
    assert set(OTHER_VALUES) == set(TensorRef.model_fields) - {"mac"}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_a_reference_with_any_field_changed_is_refused(field: str) -> None:
    changed = SEAL.sign(TENSOR_REF).model_copy(update={field: OTHER_VALUES[field]})
    with pytest.raises(TensorRefused, match="signature"):
        SEAL.check(changed)


@pytest.mark.parametrize("spec", OTHER_SPECS)
def test_a_reference_with_another_tensor_is_refused(spec: TensorSpec) -> None:
    signed = SEAL.sign(TENSOR_REF)
    with pytest.raises(TensorRefused):
        SEAL.check(signed.model_copy(update={"tensors": (spec, *signed.tensors[1:])}))


@given(st.binary(max_size=32))
def test_a_mac_that_the_seal_did_not_make_is_refused(mac: bytes) -> None:
    with pytest.raises(TensorRefused):
        SEAL.check(TENSOR_REF.model_copy(update={"mac": mac}))


def test_another_clusters_reference_is_refused() -> None:
    foreign = Seal(SecretStr("t" * 32)).sign(TENSOR_REF)
    with pytest.raises(TensorRefused):
        SEAL.check(foreign)


def test_the_seal_survives_json() -> None:
    signed = SEAL.sign(TENSOR_REF)
    SEAL.check(TensorRef.model_validate_json(signed.model_dump_json()))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "../../etc/passwd"),
        ("key", "b" * 32 + "\n"),
        ("owner", "B" * 32),
        ("owner", ""),
        ("store", "shm:/dev/shm"),
        ("tenant", "a/b"),
        ("tenant", "a\n"),
        ("tenant", ""),
        ("tenant", "a" * 65),
        ("request_id", "1"),
        ("tensors", ()),
        ("size_bytes", -1),
        ("checksum_xxh3", 2**64),
        ("expire_time", 0.0),
        ("expire_time", float("nan")),
        ("expire_time", float("inf")),
    ],
)
def test_a_malformed_reference_cannot_be_made(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        TensorRef.model_validate(TENSOR_REF.model_dump() | {field: value})
    assert {each["loc"][0] for each in caught.value.errors()} == {field}


@pytest.mark.parametrize(("shape", "size"), [((), 2), ((0, 5), 0), ((3, 4), 24)])
def test_a_tensors_size_follows_from_its_shape(shape: tuple[int, ...], size: int) -> None:
    spec = TensorSpec(name="x", element_type=ElementType.BFLOAT16, shape=shape)
    assert spec.size_bytes == size
