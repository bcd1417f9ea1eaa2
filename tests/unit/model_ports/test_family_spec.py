"""What a family says it reads, and that it is what it checks and loads."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

from services.model_families import families, find_family
from services.model_files.directory import ModelDirectory
from services.model_ports.spec import FamilySpec
from tests.checkpoints import checkpoint
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Stage

SPECS = [family.spec for family in families()]
ROOTED = "bagel-7b-mot"
SUBFOLDERED = "z-image-turbo"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    for name in (ROOTED, SUBFOLDERED):
        checkpoint(name, directory)
    return directory


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("stage", Stage)
def test_no_stage_reads_pickles_or_variants_of_weights(spec: FamilySpec, stage: Stage) -> None:
    unwanted = [
        "pytorch_model.bin",
        "model.fp16.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "flax_model.msgpack",
    ]
    for pattern in spec.patterns(stage):
        for folder in ("", "vae/", "text_encoder/", "transformer/"):
            assert not any(fnmatch(folder + name, pattern) for name in unwanted), pattern


@pytest.mark.parametrize("name", [ROOTED, SUBFOLDERED])
@pytest.mark.parametrize("stage", Stage)
def test_what_a_stage_reads_is_all_that_is_checked(
    built: Path, tmp_path: Path, name: str, stage: Stage
) -> None:
    whole = ModelDirectory(built / name)
    spec = find_family(whole).spec
    for pattern in spec.patterns(stage):
        for file in whole.path.glob(pattern):
            target = tmp_path / file.relative_to(whole.path)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
    spec.check(ModelDirectory(tmp_path), stage)


def test_shards_and_both_libraries_names_are_read(built: Path) -> None:
    patterns = find_family(ModelDirectory(built / SUBFOLDERED)).spec.patterns(Stage.DENOISER)
    for file in (
        "transformer/diffusion_pytorch_model.safetensors",
        "transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "scheduler/scheduler_config.json",
        "vae/config.json",
        "model_index.json",
        "triptych.json",
    ):
        assert any(fnmatch(file, pattern) for pattern in patterns), file
    for file in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert not any(fnmatch(file, pattern) for pattern in patterns), file


REMOVED = [
    ("config.json", Stage.VAE, "model_index.json: is missing"),
    ("llm_config.json", Stage.DENOISER, "llm_config.json: is missing"),
    ("vit_config.json", Stage.ENCODER, "vit_config.json: is missing"),
    ("tokenizer_config.json", Stage.ENCODER, "tokenizer_config.json: is missing"),
    ("tokenizer.json", Stage.ENCODER, "has no vocabulary"),
    ("ema.safetensors", Stage.DENOISER, "ema.safetensors: is missing"),
    ("ae.safetensors", Stage.VAE, "ae.safetensors: is missing"),
]


@pytest.mark.parametrize(("removed", "stage", "message"), REMOVED)
def test_a_file_that_is_missing_beside_the_others_is_named(
    built: Path, tmp_path: Path, removed: str, stage: Stage, message: str
) -> None:
    path = Path(shutil.copytree(built / ROOTED, tmp_path / ROOTED))
    (path / removed).unlink()
    with pytest.raises(ConfigurationError, match=message):
        check(path, stage)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ema.safetensors", "is not a whole safetensors file"),
        ("llm_config.json", "cannot be read as JSON"),
        ("config.json", "cannot be read as JSON"),
    ],
)
def test_a_file_that_is_cut_off_is_named(
    built: Path, tmp_path: Path, name: str, message: str
) -> None:
    path = Path(shutil.copytree(built / ROOTED, tmp_path / ROOTED))
    (path / name).write_bytes((path / name).read_bytes()[:-20])
    with pytest.raises(ConfigurationError, match=rf"{name}: {message}"):
        check(path, Stage.DENOISER)


@pytest.mark.parametrize("architectures", [None, [], "Model", [7]])
def test_a_directory_that_does_not_name_what_it_is_is_refused(
    tmp_path: Path, architectures: object
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))
    with pytest.raises(ConfigurationError, match=r"config.json: architectures are .*, not a list"):
        ModelDirectory(tmp_path)


def test_an_index_of_subfolders_counts_more_than_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Other"]}))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SomePipeline"}))
    directory = ModelDirectory(tmp_path)
    assert directory.pipeline_class == "SomePipeline"
    assert directory.index_path == tmp_path / "model_index.json"


def check(path: Path, stage: Stage) -> None:
    directory = ModelDirectory(path)
    find_family(directory).spec.check(directory, stage)
