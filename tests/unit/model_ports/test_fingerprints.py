import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from services.model_files.fingerprints import fingerprints


def _model(folder: Path) -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "transformer" / "config.json").write_text('{"layers": 1}')
    weights = {"first": torch.arange(600.0), "second": torch.ones(3, 4)}
    save_file(weights, folder / "transformer" / "model.safetensors")
    return folder


def test_a_copy_of_a_model_is_the_same(tmp_path: Path) -> None:
    model = _model(tmp_path / "model")
    shutil.copytree(model, tmp_path / "copy")
    assert fingerprints(model) == fingerprints(tmp_path / "copy")
    parts = {"./*.json", "transformer/*.json", "transformer/model.safetensors"}
    assert {*fingerprints(model)} == parts


def test_other_weights_of_the_same_shapes_are_told_apart(tmp_path: Path) -> None:
    base, fine = _model(tmp_path / "base"), _model(tmp_path / "fine")
    file = fine / "transformer" / "model.safetensors"
    save_file({name: each + 0.001 for name, each in load_file(file).items()}, file)
    changed = fingerprints(base).items() ^ fingerprints(fine).items()
    assert {part for part, _ in changed} == {"transformer/model.safetensors"}


def test_another_configuration_is_told_apart(tmp_path: Path) -> None:
    base, other = _model(tmp_path / "base"), _model(tmp_path / "other")
    (other / "transformer" / "config.json").write_text(json.dumps({"layers": 2}))
    assert fingerprints(base)["transformer/*.json"] != fingerprints(other)["transformer/*.json"]


def test_what_is_no_file_of_weights_is_told_apart_as_well(tmp_path: Path) -> None:
    base, other = _model(tmp_path / "base"), _model(tmp_path / "other")
    (other / "transformer" / "model.safetensors").write_bytes(b"version https://git-lfs")
    assert fingerprints(base) != fingerprints(other)


def test_a_snapshot_of_the_hub_is_its_commit_whichever_files_are_there(tmp_path: Path) -> None:
    snapshot = _model(tmp_path / "snapshots" / ("a" * 40))
    assert fingerprints(snapshot) == {"revision": "a" * 40}


def test_links_to_files_that_are_not_here_count_as_not_there(tmp_path: Path) -> None:
    model = _model(tmp_path / "model")
    whole = fingerprints(model)
    (model / "vae").mkdir()
    for name in ("vae/config.json", "vae/diffusion_pytorch_model.safetensors"):
        (model / name).symlink_to(tmp_path / "elsewhere" / name)
    assert fingerprints(model) == whole
