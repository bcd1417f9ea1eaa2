"""A cluster serves the model that its manifest lists, and no other."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import MODULES, run
from tests.system.running_cluster import MODEL, running_cluster

pytestmark = pytest.mark.timeout(200)


def triptych(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("triptych", *arguments, children=MODULES if "up" in arguments else ())


MANIFEST = MODEL.with_suffix(".sha256")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "SHA256SUMS"
    written = triptych("manifest", MODEL, "--output", file)
    assert written.returncode == 0, written.stderr
    return file


def test_a_manifest_is_what_sha256sum_checks(manifest: Path) -> None:
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", manifest], cwd=MODEL, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert triptych("manifest", MODEL).stdout == manifest.read_text()


def test_a_manifest_inside_the_model_does_not_list_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for _ in range(2):
        assert triptych("manifest", tmp_path, "-o", tmp_path / "SHA256SUMS").returncode == 0
        assert (tmp_path / "SHA256SUMS").read_text().split()[1:] == ["config.json"]


def test_the_demo_model_is_the_one_that_its_manifest_lists() -> None:
    assert triptych("manifest", MODEL).stdout == MANIFEST.read_text(), (
        f"made again by: triptych manifest {MODEL} -o {MANIFEST}"
    )


def test_the_listed_model_draws() -> None:
    with (
        running_cluster("--model-manifest", str(MANIFEST)) as cluster,
        cluster.client() as client,
    ):
        assert client.generate("a red circle", steps=2, seed=7).data.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("file", "topology"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", "split"),
        ("transformer/config.json", "split"),
        ("vae/diffusion_pytorch_model.safetensors", "fused"),
    ],
)
def test_a_changed_file_ends_the_start_with_a_sentence(
    manifest: Path, tmp_path: Path, file: str, topology: str
) -> None:
    changed = shutil.copytree(MODEL, tmp_path / "demo") / file
    data = bytearray(changed.read_bytes())
    # In a number: the file is whole, and says something else.
    data[-3] ^= 1
    changed.write_bytes(data)
    model = ("--model", tmp_path / "demo", "--listen", "127.0.0.1:0", "--topology", topology)
    ended = triptych("up", *model, "--model-manifest", manifest)
    assert ended.returncode != 0
    assert f"model manifest: {changed}: its SHA-256 is " in ended.stdout + ended.stderr
