from contextlib import closing
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from benchmarks.cache_efficiency import METHODS, STEPS, Rig, rows
from benchmarks.random_model import FLUX_DEV, QWEN_IMAGE, Architecture, RandomModel, tiny
from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import open_store


# It starts a process for each loop.
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(QWEN_IMAGE, id="qwen-image"), pytest.param(FLUX_DEV, id="flux")],
)
def test_the_same_steps_are_skipped_whatever_the_weights(
    architecture: Architecture, tmp_path: Path
) -> None:
    model = RandomModel(tiny(architecture), tmp_path, torch.device("cpu"), torch.float32)
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        # Compares ours with the library's bits as it goes.
        measured = rows(Rig(model, store, side=64), rounds=1, idle_steps=STEPS)
    assert [each["cache"] for each in measured] == list(METHODS)
    shares = {each["cache"]: each["reused"] for each in measured}
    assert shares == {
        "none": "0%",
        "TeaCache": "60%",
        "DBCache F1": "60%",
        "DBCache F4": "60%",
        "DBCache F1 + TaylorSeer": "60%",
        "DBCache F1 + SCM fast": "40%",
    }
