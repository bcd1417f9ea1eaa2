"""What a manifest must list of a model: at least all that a stage opens."""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
from services.model_families import find_family
from services.model_files.checksums import Checksums
from services.model_files.directory import ModelDirectory
from services.model_files.fingerprints import fingerprints
from tests.checkpoints import MODELS, checkpoint
from tests.unit.model_files.test_checksums import digest
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Stage

pytestmark = pytest.mark.slow

LOAD = {Stage.ENCODER: load_encoder, Stage.DENOISER: load_denoiser, Stage.VAE: load_vae}
_opened: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def opened() -> Iterator[list[str]]:
    """The files that Python code opens meanwhile."""
    global _opened  # noqa: PLW0603 - an audit hook stays for ever
    _opened = found = []
    try:
        yield found
    finally:
        _opened = None


def load(model: Path, stage: Stage, checksums: Checksums | None = None) -> None:
    LOAD[stage](model, None, ElementType.FLOAT32, "cpu", checksums=checksums)


def loaded(model: Path, stage: Stage) -> dict[str, bytes]:
    directory = ModelDirectory(model)
    files = find_family(directory).spec.loaded_files(directory, stage)
    assert len(set(files)) == len(files)
    return {file.relative_to(model).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("name", MODELS)
def test_a_stage_opens_nothing_else_and_needs_nothing_else(name: str, tmp_path: Path) -> None:
    whole = checkpoint(name, tmp_path)
    # To be compared with other replicas, a stage looks into all there is, and loads nothing of it.
    with opened() as compared:
        fingerprints(whole)
    for stage in Stage:
        files = loaded(whole, stage)
        with opened() as seen:
            load(whole, stage)
        to_load = Counter(seen) - Counter(compared)
        inside = {Path(each) for each in to_load if whole in Path(each).parents}
        assert {each.relative_to(whole).as_posix() for each in inside} <= files.keys()
        only = tmp_path / f"{stage}-only"
        for file, data in files.items():
            (only / file).parent.mkdir(parents=True, exist_ok=True)
            (only / file).write_bytes(data)
        load(only, stage, Checksums(Path("list"), {file: digest(files[file]) for file in files}))
        shutil.rmtree(only)


@pytest.mark.parametrize(
    "name",
    [
        "vae/extra.json",
        "vae/diffusion_pytorch_model-00001-of-00001.safetensors",
        "tokenizer/additional_chat_templates/tool.jinja",
        "text_encoder/adapter_config.json",
    ],
)
def test_what_is_put_beside_the_listed_files_is_refused_where_it_would_be_loaded(
    name: str, tmp_path: Path
) -> None:
    whole = checkpoint("qwen-image", tmp_path)
    stage = Stage.VAE if name.startswith("vae/") else Stage.ENCODER
    listed = {file: digest(data) for file, data in loaded(whole, stage).items()}
    (whole / name).parent.mkdir(exist_ok=True)
    (whole / name).write_bytes(b"{}")
    with pytest.raises(ConfigurationError, match=f"does not list {name}"):
        load(whole, stage, Checksums(Path("list"), listed))
