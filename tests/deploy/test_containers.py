"""The images' recipe and the compose files, without an engine."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.environment import known_variables
from tests.deploy.helm import ROOT

pytestmark = pytest.mark.deploy
DOCKER = ROOT / "deploy" / "docker"
COMPOSE = (
    ROOT / "docker-compose.yml",
    DOCKER / "compose.gpu.yml",
    DOCKER / "compose.manifest.yml",
    DOCKER / "compose.telemetry.yml",
)
TRIAL = ROOT / "tests" / "deploy" / "debian.yml"


def checked(*command: object) -> None:
    ran = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=100
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def services(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())["services"]
    return found


def test_the_recipe_is_lint_free() -> None:
    checked("hadolint", ROOT / "deploy" / "docker" / "Dockerfile")


@pytest.mark.parametrize("file", [*COMPOSE, TRIAL], ids=lambda each: each.name)
def test_compose_files_hold_against_the_specification(file: Path) -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)


@pytest.mark.parametrize("file", COMPOSE, ids=lambda each: each.name)
def test_every_variable_is_one_that_its_process_knows(file: Path) -> None:
    variables = {name for each in services(file).values() for name in each.get("environment", {})}
    given = {name for name in variables if name.startswith("TRIPTYCH_")}
    assert given
    assert given <= known_variables()


def test_every_service_is_confined() -> None:
    for name, each in services(COMPOSE[0]).items():
        assert each["read_only"], name
        assert each["cap_drop"] == ["ALL"], name


def test_every_process_pushes_to_the_collector_where_it_listens() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "otel" / "collector.yaml").read_text())
    port = config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    telemetry = services(DOCKER / "compose.telemetry.yml")
    pushed = {
        address
        for each in telemetry.values()
        for name, address in each.get("environment", {}).items()
        if name.endswith("_OTLP_ENDPOINT")
    }
    assert pushed == {f"http://collector:{port}"}
    told = {name for name, each in telemetry.items() if "environment" in each}
    assert told == {"gateway", "encoder", "denoiser", "vae"}
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= config[kind].keys()


def test_every_stage_reads_the_manifest_where_it_is_mounted() -> None:
    for name, each in services(DOCKER / "compose.manifest.yml").items():
        (mount,) = each["volumes"]
        assert each["environment"] == {f"TRIPTYCH_{name.upper()}_MODEL_MANIFEST": mount["target"]}
        assert mount["source"] == "${TRIPTYCH_MODEL_MANIFEST:-./models/demo.sha256}"
    assert (ROOT / "models" / "demo.sha256").is_file()


def test_prometheus_scrapes_every_process_where_it_listens() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (targets,) = job["static_configs"]
    listening = {
        f"{name}:{address.rpartition(':')[2]}"
        for name, each in services(COMPOSE[0]).items()
        for variable, address in each.get("environment", {}).items()
        if variable.endswith("_METRICS_LISTEN")
    }
    assert set(targets["targets"]) == listening
