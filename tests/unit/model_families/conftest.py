import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

DEMO = Path(__file__).parents[3] / "models" / "demo"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """The demo model: configurations are copies to change, weights are links to read."""
    path = tmp_path / "demo"
    shutil.copytree(DEMO, path, copy_function=_link_weights)
    return path


@pytest.fixture
def configure(demo: Path) -> Callable[..., None]:
    """Sets values in one of the demo's JSON files; None removes one."""

    def configure(name: str, **values: object) -> None:
        file = demo / name
        changed = json.loads(file.read_text()) | values
        kept = {key: value for key, value in changed.items() if value is not None}
        file.write_text(json.dumps(kept))

    return configure


def _link_weights(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        Path(target).symlink_to(source)
    else:
        shutil.copyfile(source, target)
