"""What cannot start says in one sentence what to change, with exit code 2."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from services.loaded_models.cache_profile import profiled_model
from services.model_families import find_family
from services.model_files.directory import CACHE_PROFILE, ModelDirectory
from tests.processes import MODULES, run
from tests.system.running_cluster import MODEL
from tests.unit.loaded_models.profiles import profile


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("s" * 64)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model that a test may damage."""
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def start_denoiser(
    tmp_path: Path,
    secret: Path,
    model: Path,
    *options: str,
    store: str = "",
    listen: str = "",
) -> subprocess.CompletedProcess[str]:
    """Runs the denoiser's service: it checks the model directory but loads nothing."""
    return run(
        *("denoiser_service", "--listen", listen or f"unix:{tmp_path}/d.sock"),
        *("--model", model, "--cluster-secret-file", secret),
        *("--store", store or f"shm://{tmp_path}/store"),
        *options,
    )


def refusal(run: subprocess.CompletedProcess[str]) -> str:
    """The last line on stderr, of a process that ended with 2 and without a traceback."""
    assert run.returncode == 2, run
    assert "Traceback" not in run.stderr
    return run.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "model"),
        (lambda model: (model / "model_index.json").unlink(), "model_index.json"),
        (lambda model: (model / "model_index.json").write_text("{"), "model_index.json"),
        (lambda model: shutil.rmtree(model / "transformer"), "transformer"),
        (lambda model: shutil.rmtree(model / "scheduler"), "scheduler"),
        (lambda model: (model / "vae" / "config.json").unlink(), "vae"),
        (lambda model: (model / "transformer" / "config.json").unlink(), "config.json"),
    ],
    ids=[
        "no-directory",
        "no-index",
        "bad-index",
        "no-weights",
        "no-scheduler",
        "no-vae",
        "no-config",
    ],
)
def test_a_model_directory_with_missing_parts_is_refused(
    damage: object, says: str, tmp_path: Path, secret: Path, model: Path
) -> None:
    assert callable(damage)
    damage(model)

    assert says in refusal(start_denoiser(tmp_path, secret, model))


def test_pickled_weights_are_refused(tmp_path: Path, secret: Path, model: Path) -> None:
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))

    assert "safetensors" in refusal(start_denoiser(tmp_path, secret, model))


def test_a_model_of_an_unknown_class_is_refused(tmp_path: Path, secret: Path, model: Path) -> None:
    index = model / "model_index.json"
    index.write_text(index.read_text().replace("QwenImagePipeline", "StrangePipeline"))

    said = refusal(start_denoiser(tmp_path, secret, model))
    assert "StrangePipeline" in said
    assert "QwenImagePipeline" in said


def test_ranks_that_the_model_cannot_be_spread_over_are_refused(
    tmp_path: Path, secret: Path, model: Path
) -> None:
    # The demo model has three attention heads, and two branches.
    said = refusal(start_denoiser(tmp_path, secret, model, "--ulysses", "2", "--cfg", "4"))
    assert "ulysses: is 2; allowed are divisors of the model's 3 attention heads: 1, 3" in said
    assert "cfg: is 4; the model's guidance has at most 2 branches" in said


def test_ranks_on_one_device_are_refused(tmp_path: Path, secret: Path, model: Path) -> None:
    options = ("--ulysses", "2", "--device", "cuda:0")
    said = refusal(start_denoiser(tmp_path, secret, model, *options))
    assert "device: is cuda:0; cuda gives each rank a device of its own" in said


def test_another_models_cache_profile_is_refused(tmp_path: Path, secret: Path, model: Path) -> None:
    directory = ModelDirectory(model)
    made_for = profiled_model(directory, find_family(directory).spec)
    file = model / CACHE_PROFILE
    profile(made_for.model_copy(update={"fingerprint": "0" * 64})).write(file)

    assert f"{file} was made for" in refusal(start_denoiser(tmp_path, secret, model))
    given = ("--cache-profile", str(file))
    assert f"{file} was made for" in refusal(start_denoiser(tmp_path, secret, MODEL, *given))


def test_a_port_in_use_is_refused(tmp_path: Path, secret: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refusal(start_denoiser(tmp_path, secret, MODEL, listen=address))

        up = run("triptych", "up", "--model", MODEL, "--listen", address)
    assert address in said
    assert up.returncode == 2
    assert address in up.stderr
    assert "--listen" in up.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_store_on_a_file_system_that_is_too_small_is_refused(
    tmp_path: Path, secret: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", small], check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        said = refusal(start_denoiser(tmp_path, secret, MODEL, store=f"shm://{small}"))
    finally:
        subprocess.run(["umount", small], check=True)
    assert "store" in said or str(small) in said
    assert "MiB" in said or "bytes" in said


def test_a_store_directory_open_to_others_is_refused(tmp_path: Path, secret: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)

    assert "700" in refusal(start_denoiser(tmp_path, secret, MODEL, store=f"shm://{shared}"))


@pytest.mark.parametrize("store", ["ftp://somewhere", "shm://relative/path", "shm:///x?colour=red"])
def test_a_store_url_that_makes_no_sense_is_refused(
    store: str, tmp_path: Path, secret: Path
) -> None:
    assert "store" in refusal(start_denoiser(tmp_path, secret, MODEL, store=store))


def test_a_short_secret_is_refused(tmp_path: Path, secret: Path) -> None:
    secret.write_text("short")

    assert "cluster_secret_file" in refusal(start_denoiser(tmp_path, secret, MODEL))


def test_up_passes_on_why_a_stage_cannot_start(tmp_path: Path, model: Path) -> None:
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    up = run(
        *("triptych", "up", "--model", model, "--listen", "127.0.0.1:0", "--log-dir", tmp_path),
        children=MODULES,
    )
    assert up.returncode == 2
    assert "vae" in up.stderr
    assert "Traceback" not in up.stderr
