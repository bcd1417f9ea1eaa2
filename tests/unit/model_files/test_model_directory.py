import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from services.model_files.directory import ModelDirectory
from services.model_files.model_name import MODEL_NAME
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import GenerationDefaults

PUBLISHED = GenerationDefaults(width=1024, height=1024, steps=50, guidance_scale=4.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole directory: one component of either library, a scheduler and a tokenizer."""
    path = tmp_path / "some-model"
    components = {
        "text_encoder": ["transformers", "TextEncoder"],
        "vae": ["diffusers", "Vae"],
        "scheduler": ["diffusers", "Scheduler"],
        "tokenizer": ["transformers", "Tokenizer"],
    }
    write(path / "model_index.json", {"_class_name": "SomePipeline"} | components)
    write(path / "text_encoder" / "config.json", {"hidden_size": 8})
    write(path / "vae" / "config.json", {"z_dim": 16})
    write(path / "scheduler" / "scheduler_config.json", {})
    write(path / "tokenizer" / "tokenizer_config.json", {})
    write(path / "tokenizer" / "tokenizer.json", {})
    weights = {"weight": torch.zeros(4, 4)}
    save_file(weights, path / "text_encoder" / "model.safetensors")
    save_file(weights, path / "vae" / "diffusion_pytorch_model.safetensors")
    return path


def write(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def check(path: Path) -> None:
    ModelDirectory(path).check(weights=["text_encoder", "vae"], configs=["scheduler", "tokenizer"])


def test_a_whole_directory_is_accepted(path: Path) -> None:
    check(path)
    assert ModelDirectory(path).config("vae") == {"z_dim": 16}
    assert ModelDirectory(path).pipeline_class == "SomePipeline"


def test_a_host_needs_only_the_subfolders_of_its_stage(path: Path) -> None:
    for file in [*(path / "text_encoder").iterdir(), *(path / "tokenizer").iterdir()]:
        file.unlink()
    (path / "text_encoder").rmdir()
    ModelDirectory(path).check(weights=["vae"], configs=["scheduler"])


@pytest.mark.parametrize("damage", ["truncated", "header", "empty", "text", "overlong"])
def test_weights_that_are_not_whole_are_refused(path: Path, damage: str) -> None:
    file = path / "vae" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(
        {
            "truncated": whole[:-1],
            "header": whole[:20],
            "empty": b"",
            "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n",
            "overlong": struct.pack("<Q", 2**62) + whole[8:],
        }[damage]
    )
    with pytest.raises(ConfigurationError, match=f"{file}: is not a whole safetensors file"):
        check(path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pth"])
def test_pickled_weights_are_refused_by_name(path: Path, name: str) -> None:
    (path / "text_encoder" / "model.safetensors").rename(path / "text_encoder" / name)
    with pytest.raises(ConfigurationError, match=f"holds {name}; only safetensors are loaded"):
        check(path)


def test_sharded_weights_are_accepted(path: Path) -> None:
    shard(path, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    check(path)


def test_a_shard_that_is_missing_is_named(path: Path) -> None:
    shard(path, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    (path / "text_encoder" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"names model-00002-of-00002\.safetensors, which"):
        check(path)


def test_a_truncated_shard_is_named(path: Path) -> None:
    shard(path, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    file = path / "text_encoder" / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ConfigurationError, match=f"{file}: is not a whole safetensors file"):
        check(path)


@pytest.mark.parametrize("name", ["../vae/diffusion_pytorch_model.safetensors", "/etc/passwd", 7])
def test_an_index_may_name_only_files_beside_it(path: Path, name: object) -> None:
    write(path / "text_encoder" / "model.safetensors.index.json", {"weight_map": {"weight": name}})
    with pytest.raises(ConfigurationError, match="allowed are files beside the index"):
        check(path)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": ["a"]}, "text"], ids=str)
def test_an_index_that_maps_nothing_is_refused(path: Path, index: object) -> None:
    write(path / "text_encoder" / "model.safetensors.index.json", index)
    with pytest.raises(ConfigurationError, match="is not an index of weight files"):
        check(path)


REMOVALS = [
    ("model_index.json", "model_index.json: is missing"),
    ("vae/config.json", "vae: has no configuration"),
    ("vae/diffusion_pytorch_model.safetensors", "vae: has no weights"),
    ("text_encoder/model.safetensors", "text_encoder: has no weights"),
    ("scheduler/scheduler_config.json", "scheduler: has no configuration"),
    ("tokenizer/tokenizer_config.json", "tokenizer: has no configuration"),
    ("tokenizer/tokenizer.json", "tokenizer: has no vocabulary"),
]


@pytest.mark.parametrize(("removed", "message"), REMOVALS)
def test_every_file_that_is_missing_is_named(path: Path, removed: str, message: str) -> None:
    (path / removed).unlink()
    with pytest.raises(ConfigurationError, match=message):
        check(path)


def test_a_subfolder_that_is_missing_is_named(path: Path) -> None:
    (path / "vae").rename(path / "autoencoder")
    with pytest.raises(ConfigurationError, match="vae: the folder is missing"):
        check(path)


def test_a_vocabulary_may_be_two_files(path: Path) -> None:
    (path / "tokenizer" / "tokenizer.json").rename(path / "tokenizer" / "vocab.json")
    with pytest.raises(ConfigurationError, match=r"vocab.json with merges.txt"):
        check(path)
    (path / "tokenizer" / "merges.txt").touch()
    check(path)


@pytest.mark.parametrize("make", [Path.touch, lambda path: None], ids=["file", "nothing"])
def test_what_is_not_a_directory_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "model")
    with pytest.raises(ConfigurationError, match="model is not a directory"):
        ModelDirectory(tmp_path / "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("\xff", "cannot be read as JSON"),
        ("[]", "holds list, not a JSON object"),
        ("{}", "_class_name is None, not a name"),
    ],
)
def test_an_unreadable_model_index_is_refused(path: Path, text: str, message: str) -> None:
    (path / "model_index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=message):
        ModelDirectory(path)


@pytest.mark.parametrize("entry", [None, "Vae", ["diffusers"], [None, None], ["a", "b", "c"]])
def test_a_component_without_library_and_class_is_refused(path: Path, entry: object) -> None:
    write(path / "model_index.json", {"_class_name": "SomePipeline", "vae": entry})
    with pytest.raises(ConfigurationError, match=r"not \[library, class\]"):
        ModelDirectory(path).check(weights=["vae"], configs=[])


def test_a_component_of_a_library_of_its_own_is_refused(path: Path) -> None:
    write(path / "model_index.json", {"_class_name": "SomePipeline", "vae": ["my_code", "Vae"]})
    with pytest.raises(ConfigurationError, match="library 'my_code' is unknown"):
        ModelDirectory(path).check(weights=["vae"], configs=[])


def test_without_a_manifest_the_folder_names_the_model(path: Path) -> None:
    assert ModelDirectory(path).name == "some-model"
    assert ModelDirectory(path / "." / "vae" / "..").name == "some-model"
    assert ModelDirectory(path).defaults(PUBLISHED) == PUBLISHED


def test_a_manifest_names_the_model_and_overrides_some_defaults(path: Path) -> None:
    write(path / "triptych.json", {"name": "mine", "defaults": {"width": 128, "steps": 4}})
    directory = ModelDirectory(path)
    assert directory.name == "mine"
    changed = directory.defaults(PUBLISHED)
    assert (changed.width, changed.height, changed.steps) == (128, 1024, 4)
    assert changed.guidance_scale == 4.0


@pytest.mark.parametrize(
    ("manifest", "field"),
    [
        ({"nam": "mine"}, "nam"),
        ({"defaults": {"widht": 128}}, "defaults.widht"),
        ({"defaults": {"width": "wide"}}, "defaults.width"),
        ({"defaults": None}, "defaults"),
    ],
)
def test_a_manifest_with_a_mistake_is_refused_by_field(
    path: Path, manifest: object, field: str
) -> None:
    write(path / "triptych.json", manifest)
    with pytest.raises(ConfigurationError, match=rf"triptych.json: {field}: "):
        ModelDirectory(path)


def shard(path: Path, names: list[str]) -> None:
    folder = path / "text_encoder"
    (folder / "model.safetensors").unlink()
    for name in names:
        save_file({name: torch.zeros(2)}, folder / name)
    write(folder / "model.safetensors.index.json", {"weight_map": {name: name for name in names}})


@pytest.mark.parametrize("name", ["model_index.json", "triptych.json", "vae/config.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_a_file_that_is_nested_without_end_is_refused(path: Path, name: str, text: str) -> None:
    (path / name).write_text(text)
    with pytest.raises(ConfigurationError, match="cannot be read as JSON"):
        check(path)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Qwen Image", "Qwen-Image"),
        ("qwen@v2", "qwen-v2"),
        ("bildmodell-ü", "bildmodell-u"),
        ("_qwen", "qwen"),
        ("qwen, the second", "qwen-the-second"),
        ("q" * 100, "q" * 64),
        ("Qwen-Image_2.0", "Qwen-Image_2.0"),
    ],
)
def test_a_folder_of_any_name_gives_its_model_one(path: Path, folder: str, name: str) -> None:
    assert ModelDirectory(path.rename(path.with_name(folder))).name == name
    assert MODEL_NAME.fullmatch(name)


def test_a_folder_of_whose_name_nothing_is_left_says_how_to_name_the_model(path: Path) -> None:
    directory = ModelDirectory(path.rename(path.with_name("模型")))
    with pytest.raises(ConfigurationError, match=r"'模型'; .*--model-name .*triptych\.json"):
        directory.name.strip()
    write(directory.path / "triptych.json", {"name": "mine"})
    assert ModelDirectory(directory.path).name == "mine"
