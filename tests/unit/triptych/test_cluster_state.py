"""What of a local cluster outlives it, and who may have it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from triptych.cli import up
from triptych.cluster import state
from triptych.cluster.address import Address
from triptych.cluster.errors import ClusterConfigurationError
from triptych.cluster.state import default_directory, held_state

_HOLD = (
    "import sys; from pathlib import Path; from triptych.cluster.state import held_state;"
    "held = held_state(Path(sys.argv[1])); held.__enter__(); print('held', flush=True);"
    "sys.stdin.read()"
)


def test_a_state_is_made_for_its_user_alone_and_stays(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "state"
    with held_state(directory) as held:
        assert stat.S_IMODE(held.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(held.jobs.stat().st_mode) == 0o700
        (held.jobs / "kept").touch()
    with held_state(directory) as again:
        assert (again.jobs / "kept").exists()


def test_a_relative_directory_is_the_users_and_not_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with held_state(Path("a b?c")) as held:
        assert held.directory == tmp_path / "a b?c"
        assert held.artifacts_url == f"file://{tmp_path}/a%20b%3Fc/artifacts"


def test_two_clusters_never_have_one_state_and_a_killed_one_gives_it_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ClusterConfigurationError) as refused, held_state(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
    assert str(refused.value) == (
        f"state: {tmp_path} is in use by the cluster of process {other.pid}; end that one, name"
        " another directory with --state DIR, or keep nothing with --state off"
    )
    with held_state(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ClusterConfigurationError, match=r"^state: cannot use .*/file: File exists"),
        held_state(tmp_path / "file"),
    ):
        pass


@pytest.mark.parametrize(("told", "used"), [("/told", "/told"), ("relative", "HOME"), ("", "HOME")])
def test_by_default_it_is_where_the_desktop_says(
    told: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_STATE_HOME", told)
    home = used.replace("HOME", "/home/ada/.local/state")
    assert default_directory(7843) == Path(home) / "triptych" / "7843"


@pytest.mark.parametrize(
    ("given", "port", "chosen"),
    [
        ("off", 7843, None),
        ("here", 0, Path("here")),
        (None, 0, None),
        (None, 7843, Path("/state/triptych/7843")),
    ],
)
def test_the_command_keeps_jobs_by_port_unless_told(
    given: str | None, port: int, chosen: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert up._state(given, Address("127.0.0.1", port)) == chosen


def test_without_its_server_nothing_is_kept_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> Path:
        raise ClusterConfigurationError("the embedded server is not installed: pip install it")

    monkeypatch.setattr(state, "valkey_binary", missing)
    assert up._state(None, Address("127.0.0.1", 7843)) is None
    assert capsys.readouterr().out == (
        "state     off: the embedded server is not installed: pip install it; or keep nothing with"
        " --state off\n"
    )
    with (
        pytest.raises(ClusterConfigurationError, match=r"^state: the embedded"),
        held_state(tmp_path),
    ):
        pass


def test_an_empty_directory_name_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="is empty; allowed is a directory, or off"):
        up.options._checked_state("")
