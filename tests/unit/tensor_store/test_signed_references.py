from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import open_store
from triptych.domain.errors import TensorRefused

TENANT, REQUEST = "tenant", "a" * 32


def test_a_reference_to_two_tensors_of_one_name_is_refused_even_if_it_is_signed() -> None:
    seal = Seal(SecretStr("s" * 32))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        ref = store.put({"x": torch.ones(4)}, tenant=TENANT, request_id=REQUEST)
        (spec,) = ref.tensors
        empty = spec.model_copy(update={"shape": (0,)})
        # Nothing of it takes room: size and header are those of what was put.
        twice = seal.sign(ref.model_copy(update={"tensors": (empty, spec)}))
        with (
            pytest.raises(TensorRefused, match="tensors of one name are two or more"),
            store.get(twice, tenant=TENANT, request_id=REQUEST),
        ):
            pass
        with store.get(ref, tenant=TENANT, request_id=REQUEST) as tensors:
            assert list(tensors) == ["x"]
