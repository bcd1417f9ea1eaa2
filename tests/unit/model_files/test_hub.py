import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from structlog.testing import capture_logs

from services.domain.model_source import HubModel, parse_model_source
from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from services.model_files.hub import open_model
from tests.checkpoints import checkpoint
from tests.unit.model_files.scripted_hub import (
    BROKEN,
    COMMIT,
    GATED,
    UNKNOWN_REPOSITORY,
    Answer,
    ScriptedHub,
)
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Stage

NAMES = ["qwen-image", "stable-diffusion-3.5-medium", "wan2.2-t2v-a14b"]
TINY = HubModel("tiny/qwen-image")
# What published repositories hold besides and no stage ever reads.
NEVER_READ = [
    "README.md",
    "whole-model.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder/model.fp16.safetensors",
    "transformer/diffusion_pytorch_model.bin",
    "transformer/modeling.py",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/model.ckpt",
    "vae/model.pt",
]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("repositories")
    built = {f"tiny/{name}": checkpoint(name, folder) for name in NAMES}
    for repository in built.values():
        for name in NEVER_READ:
            (repository / name).write_text("never fetched")
    return built | {"tiny/empty": _empty(folder / "empty")}


def _empty(folder: Path) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text("not a model")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty; nobody can be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _point_to(monkeypatch, _unreachable())
    return tmp_path / "cache"


@pytest.fixture
def hub(
    repositories: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ScriptedHub]:
    with ScriptedHub(repositories).serving() as hub:
        _point_to(monkeypatch, hub.address)
        yield hub


def _point_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    # Environment, of which the client reads these once, when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def _unreachable() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def opened(source: Path | HubModel, stage: Stage = Stage.VAE) -> ModelDirectory:
    directory = open_model(source, lambda index: find_family(index).spec.patterns(stage))
    find_family(directory).spec.check(directory, stage)
    return directory


def refusal(source: HubModel, stage: Stage = Stage.VAE) -> str:
    with pytest.raises(ConfigurationError) as caught:
        opened(source, stage)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", Stage)
def test_a_stage_fetches_its_own_weights_and_nobody_elses(
    name: str, stage: Stage, hub: ScriptedHub, repositories: dict[str, Path]
) -> None:
    opened(HubModel(f"tiny/{name}"), stage)
    spec = find_family(ModelDirectory(repositories[f"tiny/{name}"])).spec
    weights = [file for file in hub.fetched if file.endswith(".safetensors")]
    assert sorted(file.partition("/")[0] for file in weights) == sorted(spec.weights[stage])
    read = {*spec.weights[stage], *spec.configs[stage]}
    assert {file.partition("/")[0] for file in hub.fetched if "/" in file} == read
    assert [file for file in hub.fetched if "/" not in file] == ["model_index.json"]
    assert not {*hub.fetched} & {*NEVER_READ}


def test_all_stages_together_load_what_the_directory_holds(
    hub: ScriptedHub, repositories: dict[str, Path]
) -> None:
    told = (None, ElementType.FLOAT32, "cpu")
    directory = repositories["tiny/qwen-image"]
    for load in (load_encoder, load_denoiser, load_vae):
        fetched, local = load(TINY, *told), load(directory, *told)
        # A snapshot is known by its commit, a directory by its files.
        (known,) = fetched.loaded.fingerprints
        assert known.part == "revision"
        assert replace(fetched.loaded, fingerprints=local.loaded.fingerprints) == local.loaded
        assert fetched.loaded.model.name == "qwen-image"


def test_a_second_start_needs_the_hub_no_more(
    hub: ScriptedHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(TINY)
    asked = len(hub.asked)
    assert opened(replace(TINY, offline=True)).path == first.path
    assert len(hub.asked) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert opened(TINY).path == first.path
    assert len(hub.asked) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _point_to(monkeypatch, _unreachable())
    assert opened(TINY).path == first.path


def test_a_second_start_asks_only_whether_the_branch_has_moved(hub: ScriptedHub) -> None:
    opened(TINY)
    fetched, asked = len(hub.fetched), len(hub.asked)
    opened(TINY)
    assert len(hub.fetched) == fetched
    assert hub.asked[asked:] == ["/api/models/tiny/qwen-image/revision/main"]


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_a_revision_is_fetched_as_asked_for(revision: str, hub: ScriptedHub) -> None:
    directory = opened(replace(TINY, revision=revision))
    assert (directory.path.name, directory.name) == (COMMIT, "qwen-image")
    assert not [path for path in hub.asked if path.endswith("/main")]


def test_the_commit_that_was_found_is_logged(hub: ScriptedHub) -> None:
    with capture_logs() as lines:
        opened(replace(TINY, revision="v1"))
    found, fetched = lines
    assert found["commit"] == fetched["commit"] == COMMIT
    assert found["model"] == "tiny/qwen-image@v1"


def test_addresses_that_may_be_signed_are_not_logged(
    hub: ScriptedHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    opened(TINY)
    assert hub.address not in caplog.text


def test_a_manifest_in_the_repository_names_the_model(
    hub: ScriptedHub, repositories: dict[str, Path], tmp_path: Path
) -> None:
    named = Path(shutil.copytree(repositories["tiny/qwen-image"], tmp_path / "named"))
    (named / "triptych.json").write_text('{"name": "mine"}')
    hub.repositories = {"tiny/named": named}
    assert opened(HubModel("tiny/named")).name == "mine"


def test_offline_without_a_cache_is_refused(hub: ScriptedHub, cache: Path) -> None:
    said = refusal(replace(TINY, offline=True))
    assert said.startswith(f"model: tiny/qwen-image is not, or not whole, in the cache, {cache}")
    assert hub.asked == []


def test_offline_by_the_hubs_own_variable_is_refused_the_same(
    hub: ScriptedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(TINY) == refusal(replace(TINY, offline=True))
    assert hub.asked == []


@pytest.mark.parametrize("by_variable", [False, True])
def test_offline_with_another_stages_files_alone_is_refused(
    by_variable: bool, hub: ScriptedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(TINY, Stage.VAE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by_variable)
    said = refusal(replace(TINY, offline=not by_variable), Stage.DENOISER)
    assert "is not, or not whole, in the cache" in said


def test_a_repository_nobody_knows_is_refused(hub: ScriptedHub) -> None:
    said = refusal(HubModel("models/dmeo"))
    assert said.startswith(
        f"model: models/dmeo is neither a directory here nor a repository on {hub.address}"
    )


def test_a_name_no_repository_can_have_is_refused(hub: ScriptedHub) -> None:
    assert "a--b/c is neither a directory here nor the name" in refusal(HubModel("a--b/c"))
    assert hub.asked == []


@pytest.mark.parametrize("revision", ["v2", COMMIT[::-1]])
def test_a_revision_nobody_knows_is_refused(revision: str, hub: ScriptedHub) -> None:
    said = refusal(replace(TINY, revision=revision))
    assert said == f"model: tiny/qwen-image has no revision {revision} on {hub.address}"


@pytest.mark.parametrize("where", ["listing", "files"])
def test_a_gated_repository_is_refused_with_what_to_do(where: str, hub: ScriptedHub) -> None:
    setattr(hub, where, GATED)
    said = refusal(TINY)
    assert f"is gated; accept its terms on {hub.address}/tiny/qwen-image" in said
    assert "HF_TOKEN" in said


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(401, ""), "answered 401; it may need a token (HF_TOKEN"),
        (Answer(403, ""), "answered 403; it may need a token (HF_TOKEN"),
        (BROKEN, "answered 500"),
        (UNKNOWN_REPOSITORY, "nor a repository on"),
    ],
)
def test_another_refusal_of_the_hub_is_told(answer: Answer, says: str, hub: ScriptedHub) -> None:
    hub.listing = answer
    assert says in refusal(TINY)


@pytest.mark.usefixtures("cache")
def test_a_hub_that_is_not_reached_is_named() -> None:
    assert f"{constants.ENDPOINT} is not reached" in refusal(TINY)


def test_a_repository_that_holds_no_model_is_refused(hub: ScriptedHub) -> None:
    said = refusal(HubModel("tiny/empty"))
    assert "tiny/empty has no model_index.json and no config.json" in said


def test_a_cache_that_cannot_be_written_is_named(hub: ScriptedHub, cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    assert f"cannot be kept in the cache, {cache}: " in refusal(TINY)


@pytest.mark.filterwarnings("ignore:Not enough free disk space")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_disk_that_is_too_small_is_named(hub: ScriptedHub, cache: Path) -> None:
    cache.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", cache], check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        said = refusal(TINY, Stage.DENOISER)
    finally:
        subprocess.run(["umount", cache], check=True)
    assert f"does not fit on the disk with the cache, {cache}" in said


def test_a_directory_wins_over_a_repository_of_its_name(
    hub: ScriptedHub,
    repositories: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "qwen-image").symlink_to(repositories["tiny/qwen-image"])
    monkeypatch.chdir(tmp_path)
    source = parse_model_source("tiny/qwen-image")
    assert isinstance(source, Path)
    opened(source)
    assert hub.asked == []
