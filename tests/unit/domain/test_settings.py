import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from denoiser_service.service.settings import DenoiserSettings
from encoder_service.settings import EncoderSettings
from services.domain.tiling import Tiling
from services.fused.settings import FusedSettings
from services.gateway.settings import GatewaySettings
from services.jobs.retention import Retention
from tests.unit.domain.examples import loaded
from triptych.domain.errors import ConfigurationError
from vae_service.settings import VaeSettings

STAGES = ("--encoder=e:1", "--denoiser=d:1", "--vae=v:1")
GATEWAY = ["--listen=localhost:0", *STAGES, "--cluster-secret-file=s"]


def _refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        GatewaySettings.read(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def _encoder(secret: Path) -> EncoderSettings:
    flags = {"listen": "x:1", "model": "m", "store": "memory:", "cluster-secret-file": secret}
    return EncoderSettings.read([f"--{flag}={value}" for flag, value in flags.items()])


def test_flags_fill_the_settings_and_the_rest_is_defaults() -> None:
    settings = GatewaySettings.read([*GATEWAY, "--drain-seconds=5", "--reflection=false"])
    assert settings.listen == "localhost:0"
    assert settings.encoder == ("e:1",)
    assert settings.drain_seconds == 5
    assert settings.reflection is False
    assert settings.log_format == "json"


def test_a_list_is_given_by_repetition_or_commas() -> None:
    settings = GatewaySettings.read([*GATEWAY, "--encoder=unix:/tmp/b", "--vae=v:2,v:3"])
    assert settings.encoder == ("e:1", "unix:/tmp/b")
    assert settings.vae == ("v:1", "v:2", "v:3")


@pytest.mark.parametrize("joined", [True, False])
def test_a_path_in_a_list_is_taken_whole(joined: bool) -> None:
    paths = ["/models/a, b", "/models/[c]", '/models/"d"', "/models/ü"]
    told = [("--listen", "localhost:0")]
    told += [(flag, path) for flag in ("--model", "--cache-profile") for path in paths]
    flags = (
        ["=".join(each) for each in told] if joined else [part for each in told for part in each]
    )
    settings = FusedSettings.read(flags)
    assert settings.model == settings.cache_profile == tuple(map(Path, paths))


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_GATEWAY_DRAIN_SECONDS", "7")
    monkeypatch.setenv("TRIPTYCH_GATEWAY_POLL_SECONDS", "3")
    settings = GatewaySettings.read([*GATEWAY, "--drain-seconds=5"])
    assert (settings.drain_seconds, settings.poll_seconds) == (5, 3)


def test_settings_are_frozen() -> None:
    settings = GatewaySettings.read(GATEWAY)
    with pytest.raises(ValidationError):
        settings.listen = "elsewhere"  # type: ignore[misc]


def test_an_unknown_environment_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIPTYCH_GATEWAY_DRAIN_SECOND", "7")
    assert "TRIPTYCH_GATEWAY_DRAIN_SECOND\n" in _refused(GATEWAY, capsys)


def test_another_process_variables_are_no_business_of_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIPTYCH_VAE_NO_SUCH_THING", "7")
    GatewaySettings.read(GATEWAY)


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--no-such-flag" in _refused([*GATEWAY, "--no-such-flag=1"], capsys)


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("--drain-seconds=-1", "drain_seconds"),
        ("--drain-seconds=soon", "drain_seconds"),
        ("--poll-seconds=0", "poll_seconds"),
        ("--default-deadline-seconds=0", "default_deadline_seconds"),
        ("--job-lease-seconds=0", "job_lease_seconds"),
        ("--max-running-jobs=0", "max_running_jobs"),
        ("--max-job-seconds=inf", "max_job_seconds"),
        ("--job-ttl-seconds=0", "job_ttl_seconds"),
        ("--job-tombstone-seconds=-1", "job_tombstone_seconds"),
        ("--max-job-tombstones=0", "max_job_tombstones"),
        ("--max-job-bytes=much", "max_job_bytes"),
        ("--job-sweep-seconds=0", "job_sweep_seconds"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(
    flag: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"settings: {field}: " in _refused([*GATEWAY, flag], capsys)


def test_jobs_are_kept_in_memory_and_as_a_ledger_keeps_them_unless_told() -> None:
    settings = GatewaySettings.read(GATEWAY)
    assert (settings.jobs, settings.job_retention) == ("memory:", Retention())


def test_what_is_kept_of_jobs_is_told_by_time_and_by_size() -> None:
    told = ["--job-ttl-seconds=60", "--job-tombstone-seconds=90", "--max-job-tombstones=7"]
    settings = GatewaySettings.read([*GATEWAY, *told, "--max-job-bytes=1GiB"])
    assert settings.job_retention == Retention(
        ended_seconds=60, tombstone_seconds=90, max_tombstones=7, max_bytes=1 << 30
    )


def test_jobs_that_outlive_a_gateway_need_artifacts_that_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = [*GATEWAY, "--jobs=redis://:a-password@host"]
    said = _refused(kept, capsys)
    assert "jobs in redis need artifacts that outlive this process: give --artifacts" in said
    assert "a-password" not in said
    assert GatewaySettings.read([*kept, "--artifacts=file:///a"]).artifacts == "file:///a"


def test_every_missing_value_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = _refused([], capsys)
    for field in ("listen", "encoder", "denoiser", "vae", "cluster_secret_file"):
        assert f"settings: {field}: " in said


def test_a_process_with_bad_settings_exits_with_two_and_a_sentence() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.gateway", "--listen=localhost:0"],
        capture_output=True,
        text=True,
        check=False,
        env={"TRIPTYCH_GATEWAY_POLL_SECONDS": "never"},
    )
    assert ended.returncode == 2
    assert "settings: poll_seconds: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_secret_is_read_from_its_file_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x" * 32 + "\n")
    secret = _encoder(file).cluster_secret()
    assert secret.get_secret_value() == "x" * 32
    assert "xx" not in repr(secret)


@pytest.mark.parametrize("content", [b"", b"short\n", b" " * 40 + b"x" * 31, b"\xff" * 40])
def test_an_unusable_secret_file_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"cluster_secret_file: .*{file}"):
        _encoder(file).cluster_secret()


def test_a_missing_secret_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cluster_secret_file: cannot read .*/none"):
        _encoder(tmp_path / "none").cluster_secret()


@pytest.mark.parametrize(
    ("text", "size"), [("20GiB", 20 * 2**30), ("1.5MB", 1_500_000), ("4096", 4096)]
)
def test_sizes_are_given_as_people_write_them(text: str, size: int, tmp_path: Path) -> None:
    assert _denoiser(tmp_path).max_resident_bytes is None
    assert _denoiser(tmp_path, f"--max-resident-bytes={text}").max_resident_bytes == size


@pytest.mark.parametrize("text", ["much", "0", "-1MiB", "5 apples"])
def test_a_size_that_is_none_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _denoiser(tmp_path, f"--max-resident-bytes={text}")
    assert "max_resident_bytes" in capsys.readouterr().err


def _denoiser(secret: Path, *more: str) -> DenoiserSettings:
    flags = {"listen": "x:1", "model": "m", "store": "memory:", "cluster-secret-file": secret}
    return DenoiserSettings.read([*(f"--{flag}={value}" for flag, value in flags.items()), *more])


def test_no_more_requests_step_together_than_are_resident(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _denoiser(tmp_path).max_step_batch == 1
    assert _denoiser(tmp_path, "--max-step-batch=4").max_step_batch == 4
    with pytest.raises(SystemExit):
        _denoiser(tmp_path, "--max-step-batch=5")
    assert "max_step_batch: is 5; allowed are at most 4" in capsys.readouterr().err


def test_ranks_that_share_steps_take_those_of_one_request_at_a_time(tmp_path: Path) -> None:
    both = _denoiser(tmp_path, "--max-step-batch=2", "--cfg=2")
    with pytest.raises(ConfigurationError, match="max_step_batch: is 2; several ranks"):
        both.check_ranks(loaded().model.capabilities)
    _denoiser(tmp_path, "--max-step-batch=2").check_ranks(loaded().model.capabilities)


def test_pictures_are_worked_on_whole_unless_told(tmp_path: Path) -> None:
    assert _vae(tmp_path).tiles is None
    assert _vae(tmp_path, "--tiling=true").tiles == Tiling()
    told = _vae(tmp_path, "--tiling=true", "--tile-size=512", "--tile-overlap=0.125")
    assert told.tiles == Tiling(512, 0.125)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tile-size=512"], "tile_size: Value error, is 512; it needs tiling, which is off"),
        (["--tile-overlap=0.5"], "tile_overlap: Value error, is 0.5; it needs tiling"),
        (["--tiling=true", "--tile-size=32"], "tile_size"),
        (["--tiling=true", "--tile-overlap=0.3"], "tile_overlap"),
        (["--tiling=true", "--tile-overlap=0.75"], "tile_overlap"),
    ],
)
def test_tiles_that_are_none_are_refused(
    flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _vae(tmp_path, *flags)
    assert says in capsys.readouterr().err


def _vae(secret: Path, *more: str) -> VaeSettings:
    flags = {"listen": "x:1", "model": "m", "store": "memory:", "cluster-secret-file": secret}
    return VaeSettings.read([*(f"--{flag}={value}" for flag, value in flags.items()), *more])


@pytest.mark.parametrize("value", ["inf", "nan", "1e12", "0", "-1"])
@pytest.mark.parametrize("name", ["tensor-ttl-seconds", "sweep-seconds"])
def test_times_that_do_not_pass_are_refused(
    name: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--listen=x:1", "--model=m", "--store=memory:", f"--cluster-secret-file={tmp_path}"]
    with pytest.raises(SystemExit):
        EncoderSettings.read([*flags, f"--{name}={value}"])
    assert f"settings: {name.replace('-', '_')}: " in capsys.readouterr().err
