"""`triptych replay`, against a real cluster."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import run
from tests.system.running_cluster import RunningCluster, running_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster("--topology", "fused") as running:
        yield running


@pytest.fixture(scope="module")
def receipt(cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a picture that was drawn before."""
    folder = tmp_path_factory.mktemp("receipts")
    drawn = run(
        *("triptych", "generate", "a red circle", "--steps", "4", "--cache", "tea_cache"),
        *("--output", folder / "circle.png", "--receipt", folder / "receipt.json"),
        *("--target", cluster.target),
    )
    assert drawn.returncode == 0, drawn.stderr
    return folder / "receipt.json"


def test_a_receipt_says_what_the_bytes_depend_on(receipt: Path) -> None:
    told = json.loads(receipt.read_text())
    assert {each["name"] for each in told["receipt"]["versions"]} >= {"triptych", "torch"}
    assert told["receipt"]["fingerprints"]
    assert told["parameters"]["seed"]


def test_a_result_is_drawn_again_with_the_same_bytes(
    cluster: RunningCluster, receipt: Path
) -> None:
    again = run("triptych", "replay", receipt, "--target", cluster.target)
    assert (again.returncode, again.stdout.strip()) == (0, "the same bytes"), again.stderr


def test_a_job_is_replayed_by_its_id(cluster: RunningCluster) -> None:
    with cluster.client() as client:
        job_id = client.generate("a red circle", steps=3).job_id
    again = run("triptych", "replay", job_id, "--json", "--target", cluster.target)
    assert json.loads(again.stdout) == {"same": True, "differences": []}


def test_other_bytes_are_told_and_end_with_1(
    cluster: RunningCluster, receipt: Path, tmp_path: Path
) -> None:
    told = json.loads(receipt.read_text())
    told["artifacts"][0]["checksumXxh3"] = "5"
    told["receipt"]["fingerprints"][0]["digest"] = "0" * 16
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(told))
    again = run("triptych", "replay", changed, "--target", cluster.target)
    assert again.returncode == 1
    assert "file 0: XXH3-64 was 0000000000000005" in again.stdout
    assert f"was {'0' * 16}" in again.stdout


@pytest.mark.parametrize("source", ["no/such/file", "f" * 32])
def test_what_is_not_there_is_said(cluster: RunningCluster, source: str) -> None:
    again = run("triptych", "replay", source, "--target", cluster.target)
    assert again.returncode in (2, 3)
    assert source[:16] in again.stderr
