"""A checkpoint is its name: whoever builds it gets the same bytes."""

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.checkpoints import MODELS, checkpoint

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
BUILD_ALL = """
import sys
from pathlib import Path
from tests.checkpoints import MODELS, checkpoint
for name in reversed(MODELS):
    checkpoint(name, Path(sys.argv[1]))
"""

Digests = Mapping[str, str]


def digests(directory: Path) -> Digests:
    """The SHA-256 of every file by its path inside the directory."""
    files = sorted(each for each in directory.rglob("*") if each.is_file())
    return {
        str(each.relative_to(directory)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in files
    }


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models built by another process, in another order, with other hashes of text."""
    directory = tmp_path_factory.mktemp("elsewhere")
    subprocess.run(
        [sys.executable, "-c", BUILD_ALL, str(directory)],
        check=True,
        cwd=REPOSITORY,
        env={"PYTHONHASHSEED": "4711"},
    )
    return directory


@pytest.fixture(scope="module", params=list(MODELS))
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(str(request.param), tmp_path_factory.mktemp("here"))


def test_every_process_builds_the_same_bytes(here: Path, elsewhere: Path) -> None:
    assert digests(here) == digests(elsewhere / here.name)


def test_a_checkpoint_is_tiny(here: Path) -> None:
    assert 500_000 < sum(each.stat().st_size for each in here.rglob("*.*")) < 2_600_000


def test_models_of_one_architecture_have_weights_of_their_own(elsewhere: Path) -> None:
    one, other = (digests(elsewhere / name) for name in ("qwen-image", "qwen-image-2512"))
    different = [path for path in one if one[path] != other[path]]
    assert sorted(different) == [
        "text_encoder/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
