"""The command line as a person meets it."""

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.processes import MODULES, run
from tests.system.running_cluster import MODEL, RunningCluster


def triptych(*arguments: object, seconds: float = 100) -> subprocess.CompletedProcess[str]:
    children = () if "--target" in arguments else MODULES
    return run("triptych", *arguments, seconds=seconds, children=children)


@pytest.mark.parametrize("topology", ["split", "fused"])
def test_one_command_draws_a_picture_with_a_cluster_of_its_own(
    topology: str, tmp_path: Path
) -> None:
    picture = tmp_path / "circle.png"
    run = triptych(
        *("generate", "a red circle on a blue background", "--output", picture),
        *("--model", MODEL, "--topology", topology, "--steps", 4, "--seed", 7),
    )

    assert run.returncode == 0, run.stderr
    said = run.stdout + run.stderr
    for part in ("encoder", "denoiser", "vae", str(picture), "seed 7"):
        assert part in said
    assert "kept until" not in said, "the cluster has ended, and what it kept with it"
    with Image.open(picture) as image:
        assert image.size == (128, 128)


def test_split_and_fused_write_byte_identical_files(
    split_cluster: RunningCluster, fused_cluster: RunningCluster, tmp_path: Path
) -> None:
    files = []
    for place, cluster in enumerate((split_cluster, split_cluster, fused_cluster)):
        files.append(tmp_path / f"{place}.png")
        run = triptych(
            *("generate", "a green cross", "-o", files[-1], "--target", cluster.target),
            *("--seed", 3, "--width", 96, "--height", 64, "--steps", 3, "--guidance", 2),
        )
        assert run.returncode == 0, run.stderr
        assert "kept until" in run.stdout

    first, again, fused = (file.read_bytes() for file in files)
    assert first == again == fused


def test_json_tells_scripts_what_was_done(split_cluster: RunningCluster, tmp_path: Path) -> None:
    run = triptych(
        *("generate", "a green cross", "-o", tmp_path / "x.png", "--steps", 2, "--json"),
        *("--target", split_cluster.target),
    )

    assert run.returncode == 0
    told = json.loads(run.stdout)
    assert told["seed"] >= 0
    assert run.stderr == ""


def test_a_refused_request_exits_with_3_and_names_the_field(
    split_cluster: RunningCluster, tmp_path: Path
) -> None:
    run = triptych(
        *("generate", "a cross", "-o", tmp_path / "x.png", "--target", split_cluster.target),
        *("--width", 100, "--guidance", "nan"),
    )

    assert run.returncode == 3
    assert "width" in run.stderr
    assert "guidance_scale" in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_is_not_there_exits_with_4(tmp_path: Path) -> None:
    run = triptych("generate", "x", "-o", tmp_path / "x.png", "--target", "127.0.0.1:1")

    assert run.returncode == 4
    assert "127.0.0.1:1" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_deadline_exits_with_5(split_cluster: RunningCluster, tmp_path: Path) -> None:
    run = triptych(
        *("generate", "a cross", "-o", tmp_path / "x.png", "--target", split_cluster.target),
        *("--steps", 200, "--timeout", 0.5),
    )

    assert run.returncode == 5
    assert "deadline" in run.stderr


def test_models_lists_what_is_served_and_its_limits(split_cluster: RunningCluster) -> None:
    listed = triptych("models", "--target", split_cluster.target)
    detailed = triptych("models", "triptych-demo", "--target", split_cluster.target)
    unknown = triptych("models", "flux", "--target", split_cluster.target)

    assert "triptych-demo" in listed.stdout
    assert "128" in detailed.stdout
    assert unknown.returncode == 3
    assert "triptych-demo" in unknown.stderr
