"""Real processes that are given a model of the hub."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.model_files.scripted_hub import ScriptedHub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo"
DRAW = ("generate", "a red circle", "--width=64", "--height=64", "--steps=2", "--seed=7")

Triptych = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def triptych(tmp_path: Path) -> Triptych:
    """Runs a command whose hub is `hub` and whose cache is the test's own."""

    def run(hub: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hub")},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


def test_split_services_fetch_a_model_once_and_a_fused_one_then_draws_the_same_offline(
    triptych: Triptych, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    with ScriptedHub({"tiny/demo": DEMO}).serving() as hub:
        drawn = triptych(
            hub.address, "triptych", *DRAW, "--model=tiny/demo@v1", f"--output={first}"
        )
        assert drawn.returncode == 0, drawn.stderr
        asked = len(hub.asked)
        drawn = triptych(
            *(hub.address, "triptych", *DRAW, "--model=tiny/demo@v1", f"--output={second}"),
            *("--topology=fused", "--offline"),
        )
        assert drawn.returncode == 0, drawn.stderr
        assert len(hub.asked) == asked
    weights = [file for file in hub.fetched if file.endswith(".safetensors")]
    held = [str(file.relative_to(DEMO)) for file in DEMO.rglob("*.safetensors")]
    assert Counter(weights) == Counter(held)
    assert first.read_bytes() == second.read_bytes()


def test_up_passes_on_what_the_hub_says(triptych: Triptych) -> None:
    with ScriptedHub({}).serving() as hub:
        up = triptych(
            *(hub.address, "triptych", "up", "--model=nobody/nothing", "--listen=127.0.0.1:0")
        )
    assert up.returncode == 2
    assert "nobody/nothing is neither a directory here nor a repository" in up.stderr
    assert "Traceback" not in up.stderr


def test_a_denoiser_says_in_its_last_line_why_it_cannot_fetch(
    triptych: Triptych, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s" * 64)
    ended = triptych(
        *("http://127.0.0.1:9", "denoiser_service", "--model=tiny/demo"),
        *(f"--listen=unix:{tmp_path}/d.sock", f"--store=shm://{tmp_path}/store"),
        *(f"--cluster-secret-file={tmp_path}/secret", "--offline=true"),
    )
    assert ended.returncode == 2
    said = ended.stderr.strip().splitlines()[-1]
    assert said.startswith(
        f"denoiser: model: tiny/demo is not, or not whole, in the cache, {tmp_path}/hub/hub"
    )
    assert "Traceback" not in ended.stderr
