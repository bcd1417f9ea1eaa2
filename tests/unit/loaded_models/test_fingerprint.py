from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.loaded_models.conditioning_encoder import fingerprint
from services.loaded_models.stage_model import StageModel
from tests.unit.model_ports.fake_model import LOADED
from triptych.domain.element_type import ElementType


def held(folder: Path, **files: str) -> StageModel[None]:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return StageModel(LOADED, None, {name: folder / name for name in files})


def test_the_same_files_in_another_place_are_the_same_model(tmp_path: Path) -> None:
    one, other = (held(tmp_path / name, weights="w", config="c") for name in ("here", "there"))
    assert fingerprint(one, "cpu") == fingerprint(other, "cpu")
    assert len(fingerprint(one, "cpu")) == 64


@pytest.mark.parametrize(
    "files",
    [
        {"weights": "W", "config": "c"},
        {"weights": "w"},
        {"weights": "w", "configuration": "c"},
        {"weights": "c", "config": "w"},
        {"weights": "w", "config": "c", "template": ""},
    ],
)
def test_other_contents_or_names_of_files_are_another_model(
    tmp_path: Path, files: dict[str, str]
) -> None:
    one, other = held(tmp_path / "one", weights="w", config="c"), held(tmp_path / "two", **files)
    assert fingerprint(one, "cpu") != fingerprint(other, "cpu")


def test_settings_count(tmp_path: Path) -> None:
    model = held(tmp_path / "model", weights="w")
    assert len({fingerprint(model, "cpu", *told) for told in ((), (None,), (1,), (1, True))}) == 4


def test_the_type_that_weights_compute_in_counts(tmp_path: Path) -> None:
    model = held(tmp_path / "model", weights="w")
    served = replace(LOADED.model, dtype=ElementType.BFLOAT16)
    other = StageModel(replace(LOADED, model=served), None, model.files)
    assert fingerprint(model, "cpu") != fingerprint(other, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(torch, "get_num_threads", lambda: 1001),
        lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER"),
    ],
)
def test_what_orders_sums_otherwise_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    model = held(tmp_path / "model", weights="w")
    before = fingerprint(model, "cpu")
    change(monkeypatch)
    assert fingerprint(model, "cpu") != before
