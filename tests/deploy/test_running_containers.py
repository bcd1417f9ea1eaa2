"""The images and the compose file with a real Docker engine: `make test-docker`."""

import json
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from benchmarks.report import Row, write
from tests.deploy.composition import IMAGES, Composition, built_images, generate_fused
from tests.deploy.engine import Engine, running_engine
from tests.deploy.wheelhouse import collected_wheels
from tests.system.running_cluster import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]
PROCESSES = ("gateway", "encoder", "denoiser", "vae")
LONG_SECONDS = 15
"""Of a request that must still run when the stop comes, and be done when the grace is over."""
UP = "http://prometheus:9090/api/v1/query?query=up"
ASK = f"import urllib.request as r; print(r.urlopen({UP!r}).read().decode())"
NOTES = (
    "`make test-docker` with {engine}, Compose {compose}. Gateway, encoder, denoiser, VAE, Redis,"
    " the ledger's and Prometheus are containers of docker-compose.yml, on a network of its own."
    " Pictures are asked for with `triptych generate --target` at the port that it publishes, and"
    " compared by the checksums of pixels and latents with those of `--topology fused` outside any"
    " container.",
    "A container is killed by SIGKILL to its main process, from outside; its time lasts until the"
    " engine has restarted it, its health check passes, and the gateway finds all stages ready;"
    " for a moment it may then still refuse a request and ask to repeat it, as after Redis. The"
    " stop comes while a request is denoised, and takes as long as that and the rest.",
)
STAND_INS = (
    "Built without a network, from wheels. No registry was asked: the base image is a minimal"
    " Debian 12 with its Python, its Redis stands for Valkey, and its Prometheus for that of the"
    " compose file. The images of Grafana, of the collector and of Jaeger were not run.",
)


class Record:
    """What came of each trial, and how long it took."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, trial: str, seconds: float, came_to: str) -> None:
        self.rows.append({"trial": trial, "seconds": seconds, "came to": came_to})


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    kept = os.environ.get("TRIPTYCH_TEST_DOWNLOADS")
    with (
        nullcontext(kept) if kept else TemporaryDirectory() as downloads,
        running_engine(Path(downloads).absolute()) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Record]:
    """Written down if all of it was tried, and went well."""
    kept = Record()
    yield kept
    if request.session.testsfailed == 0 and not request.config.option.keyword:
        version = engine.docker("version", "--format={{.Server.Version}}").strip()
        compose = engine.compose("version", "--short").strip()
        kind = "started by it, in namespaces of its own" if engine.own else "that ran already"
        notes = [each.format(engine=f"Docker {version}, {kind}", compose=compose) for each in NOTES]
        notes += STAND_INS if engine.own else ()
        write("containers", "What containers come to", kept.rows, notes)


@pytest.fixture(scope="module")
def project(engine: Engine, record: Record) -> Iterator[Composition]:
    """Running, and ready."""
    with collected_wheels() if engine.own else nullcontext():
        started = time.monotonic()
        with built_images(engine) as built:
            sizes = engine.docker("image", "inspect", "--format={{.Size}}", *IMAGES).split()
            made = zip(IMAGES, sizes, strict=True)
            said = ", ".join(f"{name} {int(size) / 1e6:.0f} MB" for name, size in made)
            record.add("build the images", time.monotonic() - started, said)
            started = time.monotonic()
            built.start()
            record.add("start", time.monotonic() - started, "all healthy")
            yield built


def pixels(report: dict[str, Any]) -> tuple[str, str]:
    return report["checksum_xxh3"], report["latents_checksum_xxh3"]


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process draws outside any container."""
    return generate_fused(tmp_path_factory.mktemp("fused") / "picture.png")


def test_a_picture_drawn_by_containers_is_bit_for_bit_the_one_drawn_in_one_process(
    project: Composition, fused: dict[str, Any], record: Record, tmp_path: Path
) -> None:
    started = time.monotonic()
    drawn = project.generate(tmp_path / "picture.png")
    seconds = time.monotonic() - started
    assert pixels(drawn) == pixels(fused)
    assert (tmp_path / "picture.png").read_bytes() == Path(fused["path"]).read_bytes()
    record.add("draw a picture", seconds, f"the same bits, checksum {drawn['checksum_xxh3']}")


@pytest.mark.parametrize("service", PROCESSES)
def test_every_process_is_an_ordinary_user_that_can_gain_nothing_and_write_nowhere(
    project: Composition, service: str
) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in project.execute(service, "cat", "/proc/1/status").splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["10001"] * 4
    assert {int(status[each], 16) for each in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    written = "import pathlib; pathlib.Path.home().joinpath('file').touch()"
    refused = project.execute(service, "sh", "-c", f'python -c "{written}" 2>&1 || true')
    assert "Read-only file system" in refused


def test_prometheus_reaches_every_process_by_its_name(project: Composition) -> None:
    def reached() -> set[str]:
        answer = json.loads(project.execute("gateway", "python", "-c", ASK))
        samples = answer["data"]["result"]
        return {
            each["metric"]["instance"].split(":")[0] for each in samples if each["value"][1] == "1"
        }

    assert until(lambda: reached() == set(PROCESSES), 60, 1), reached()


@pytest.mark.parametrize("service", [*PROCESSES, "redis", "ledger"])
def test_a_container_that_is_killed_comes_back_and_the_same_bits_are_drawn(
    project: Composition, fused: dict[str, Any], record: Record, service: str, tmp_path: Path
) -> None:
    started = time.monotonic()
    project.kill(service)
    project.wait_serving()
    seconds = time.monotonic() - started
    # The gateway may learn a little later that tensors have another server now.
    drawn = project.generate(tmp_path / "picture.png", patience=60)
    assert pixels(drawn) == pixels(fused)
    record.add(f"kill {service}", seconds, "healthy again; the next picture has the same bits")


def test_a_stop_lets_a_running_request_finish_and_every_process_ends_well(
    project: Composition, record: Record, tmp_path: Path
) -> None:
    usual = project.generate(tmp_path / "usual.png")
    steps = math.ceil(usual["parameters"]["steps"] * LONG_SECONDS / usual["total_seconds"])
    long = f"--steps={steps}"
    previews = tmp_path / "previews"
    previews.mkdir()
    shown = ("--preview-every=1", f"--preview-dir={previews}")
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(project.generate, tmp_path / "picture.png", long, *shown)
        assert until(lambda: asked.done() or any(previews.glob("*.png")), 60)
        started = time.monotonic()
        project.compose("stop")
        seconds = time.monotonic() - started
        drawn = asked.result()
    try:
        said = [line["event"] for line in project.log("gateway")]
        # It was still drawn when the signal came.
        assert said[-3:] == ["draining", "completed", "stopped"], said
        for each in (*PROCESSES, "redis", "ledger", "prometheus"):
            assert project.inspect(each)["State"]["ExitCode"] == 0, each
        for each in PROCESSES:
            # Nothing but a stop has these said; a rank may have the last word.
            said = [line["event"] for line in project.log(each)]
            assert {"draining", "stopped"} <= set(said), (each, said)
    finally:
        project.start()
    assert pixels(drawn) == pixels(generate_fused(tmp_path / "fused.png", long))
    came_to = f"the picture of {steps} steps was finished, with the same bits; all exit codes 0"
    record.add("stop while drawing", seconds, came_to)
