"""`triptych calibrate` and `triptych tune`, as a person runs them, on tiny models."""

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from services.loaded_models.cache_profile import find_profile, read_profile
from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from services.tuning.polynomial import MIN_R_SQUARED
from tests import processes
from tests.checkpoints import checkpoint
from tests.integration.command import Ended
from tests.system.running_cluster import MODEL
from triptych.domain.acceleration import NO_CACHE

# Two runs' worth, on a machine that is busy with others.
pytestmark = pytest.mark.timeout(400)
SECONDS = 180

SMALL = ("--width", "64", "--height", "64")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n\na green star\n")
    return file


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    file = tmp_path / "prompt.txt"
    file.write_text("a red circle\n")
    return file


async def run(*arguments: str) -> Ended:
    children = ("services.tuning.calibrate", "services.tuning.tune")
    ended = await asyncio.to_thread(
        processes.run, "triptych", *arguments, seconds=SECONDS, children=children
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def refusal(ended: Ended) -> str:
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    return ended.err.strip().splitlines()[-1]


async def manifest_of(model: Path, folder: Path) -> str:
    file = str(folder / "SHA256SUMS")
    assert (await run("manifest", str(model), "-o", file)).code == 0
    return file


async def test_a_model_is_calibrated(tmp_path: Path, prompts: Path) -> None:
    model = checkpoint("longcat-image", tmp_path)
    file = tmp_path / "profile.json"
    drawn = ("--steps", "8", "--prompts", str(prompts))
    manifest = await manifest_of(model, tmp_path)
    told = ("--model", str(model), "--model-manifest", manifest, *SMALL, *drawn)
    calibrated = await run("calibrate", *told, "-o", str(file))
    assert calibrated.code == 0, calibrated.err
    profile = read_profile(file)
    assert profile.tea_cache is not None
    assert profile.default is None
    assert profile.tea_cache.polynomial == "fitted"
    assert profile.tea_cache.coefficients == profile.tea_cache.fit.coefficients
    assert profile.tea_cache.fit.r_squared >= MIN_R_SQUARED
    # Seven pairs of steps in each of two branches, of two prompts.
    assert profile.tea_cache.fit.pairs == 28
    assert (profile.tea_cache.conditions.steps, profile.tea_cache.conditions.prompts) == (8, 2)
    for heading in ("speed-up", "reused", "PSNR", "SSIM", "R2", "1 thread"):
        assert heading in calibrated.out

    directory = ModelDirectory(model)
    spec = find_family(directory).spec
    served = find_profile(directory, spec, file)
    assert served is not None
    support = served.applied(spec.capabilities(directory)).cache_support
    assert support.tea_cache_coefficients == profile.tea_cache.coefficients


async def test_a_fit_that_predicts_nothing_is_refused(tmp_path: Path, prompt: Path) -> None:
    model = checkpoint("stable-diffusion-3.5-medium", tmp_path)
    file = tmp_path / "profile.json"
    drawn = (*SMALL, "--steps", "12", "--prompts", str(prompt))
    said = refusal(await run("calibrate", "--model", str(model), *drawn, "--output", str(file)))
    assert "at least 0.5 is needed" in said
    assert "--identity" in said
    assert not file.exists()


async def test_the_fastest_cache_that_holds_becomes_the_models_default(
    tmp_path: Path, prompt: Path
) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "demo"))
    drawn = (*SMALL, "--steps", "10", "--prompts", str(prompt))
    tuned = await run("tune", "--model", str(model), *drawn, "--min-psnr", "15")
    assert tuned.code == 0, tuned.err
    directory = ModelDirectory(model)
    spec = find_family(directory).spec
    profile = find_profile(directory, spec)
    assert profile is not None
    assert profile.default is not None
    held = [
        each
        for each in profile.default.measurements
        if each.reused_share > 0 and each.min_psnr is not None and each.min_psnr >= 15
    ]
    assert profile.default.cache == max(held, key=lambda each: each.speedup).cache
    assert "TaylorSeer" in tuned.out
    assert "SCM" in tuned.out
    limits = profile.applied(spec.capabilities(directory))
    assert limits.default_cache(10) == profile.default.cache
    assert limits.default_cache(9) == NO_CACHE


async def test_what_cannot_be_measured_is_refused_before_the_model_is_loaded(
    tmp_path: Path, prompts: Path
) -> None:
    told = ("--model", "models/demo", "--prompts", str(prompts))
    nowhere = await run("calibrate", *told, "--output", str(tmp_path / "none" / "profile.json"))
    assert f"the directory {tmp_path / 'none'} does not exist" in refusal(nowhere)
    hub = await run("tune", "--model", "org/name", "--min-psnr", "30")
    assert hub.code == 2
    assert "--profile" in hub.err


@pytest.mark.parametrize(
    ("command", "part"),
    [
        pytest.param(("calibrate", "--output"), "text_encoder", marks=pytest.mark.exhaustive),
        (("calibrate", "--output"), "vae"),
        (("tune", "--min-psnr=30", "--profile"), "transformer"),
    ],
)
async def test_a_model_that_is_not_its_manifests_is_not_measured(
    tmp_path: Path, command: tuple[str, ...], part: str
) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "demo"))
    manifest = await manifest_of(model, tmp_path)
    changed = next((model / part).glob("*.safetensors"))
    data = bytearray(changed.read_bytes())
    # In a number: the file is whole, and says something else.
    data[-3] ^= 1
    changed.write_bytes(data)
    profile = tmp_path / "profile.json"
    told = ("--model", str(model), "--model-manifest", manifest)
    said = refusal(await run(command[0], *told, *command[1:], str(profile)))
    assert f"model manifest: {changed}: its SHA-256 is " in said
    assert not profile.exists()


async def test_ctrl_c_ends_what_measures(tmp_path: Path) -> None:
    told = ("--model", "models/demo", "--steps", "200", "-o", str(tmp_path / "p.json"))
    process = processes.start(
        "triptych", "calibrate", *told, piped=True, children=("services.tuning.calibrate",)
    )
    assert process.stdout is not None
    first = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 100)
    assert "loaded" in first
    process.send_signal(signal.SIGINT)
    with process.stdout:
        assert "cancelled" in await asyncio.to_thread(process.stdout.read)
    assert process.wait(SECONDS) == 130
    assert not (tmp_path / "p.json").exists()
