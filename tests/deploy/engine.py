"""A Docker engine: this machine's, or one of Debian's that lives only as long as it is used."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.deploy import debian
from tests.deploy.prometheus import binary
from tests.system.running_cluster import until

ROOT = Path(__file__).parents[2]
_COMPOSE = (("docker", "compose"), ("docker-compose",))
_PACKAGES = ("docker.io", "docker-compose", "debootstrap")
_NEEDED = ("apt-get", "dpkg", "ip", "mount", "nsenter", "tar", "unshare")
_START_SECONDS = 120
# From its network nothing outside is reached, what it writes to /run and /etc nobody else sees, and
# none of its processes and mounts outlives it.
_APART = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_START = """
set -e
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir /run/etc /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work overlay /etc
exec dockerd "$@"
"""


@dataclass(frozen=True)
class Engine:
    """One that answers.

    Args:
        own: whether it was started here, and goes with all that it holds.
        composing: Compose, of either generation.
        environment: of Docker's commands.
        entering: before a command that is to reach the ports that containers publish.
    """

    own: bool
    composing: Sequence[str]
    environment: Mapping[str, str]
    entering: Sequence[str] = ()

    def docker(self, *arguments: object) -> str:
        """What `docker` prints, to either stream; fails if it fails."""
        return self._output("docker", *arguments)

    def compose(self, *arguments: object, **variables: str) -> str:
        """What Compose prints of the project in this repository; fails if it fails.

        Args:
            arguments: of its command line.
            variables: further ones of its environment.
        """
        return self._output(*self.composing, *arguments, **variables)

    def _output(self, *command: object, **variables: str) -> str:
        ran = _run(*map(str, command), environment={**self.environment, **variables})
        assert ran.returncode == 0, f"{command} ended with {ran.returncode}:\n{ran.stdout}"
        return ran.stdout


@contextmanager
def running_engine(downloads: Path) -> Iterator[Engine]:
    """The engine that DOCKER_HOST or Docker's context names, or else one of our own.

    Skips where there is neither, and says what is missing.

    Args:
        downloads: where Debian's packages stay.
    """
    asked = _run("docker", "version") if shutil.which("docker") else None
    if asked is not None and asked.returncode == 0:
        yield Engine(own=False, composing=_compose(), environment=os.environ)
        return
    if host := os.environ.get("DOCKER_HOST"):
        pytest.skip(f"no Docker engine answers at DOCKER_HOST={host}")
    if missing := _missing():
        pytest.skip(f"no Docker engine runs here, and to start one there is no {missing}")
    environment = debian.unpacked(_PACKAGES, downloads)
    base = debian.base_image(downloads, environment)
    with _own_engine(environment) as engine:
        engine.docker("import", base, "triptych-base")
        yield engine


def _compose() -> Sequence[str]:
    for command in _COMPOSE:
        if shutil.which(command[0]) and _run(*command, "version").returncode == 0:
            return command
    pytest.skip("a Docker engine runs here, but there is no Compose")


def _missing() -> str:
    missing = [each for each in _NEEDED if shutil.which(each) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if sys.version_info[:2] != debian.PYTHON:
        missing.append("Python {}.{}, for the wheels of the image's".format(*debian.PYTHON))
    return ", no ".join(missing)


@contextmanager
def _own_engine(environment: Mapping[str, str]) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="triptych-engine-") as name:
        directory = Path(name)
        socket = f"unix://{directory / 'socket'}"
        told = {
            **environment,
            "DOCKER_HOST": socket,
            "DOCKER_CONFIG": str(directory / "config"),
            "DOCKER_BUILDKIT": "1",
            "COMPOSE_DOCKER_CLI_BUILD": "1",
            "COMPOSE_FILE": "docker-compose.yml:tests/deploy/debian.yml",
            "TRIPTYCH_PROMETHEUS": binary("prometheus"),
        }
        options = [
            f"--host={socket}",
            f"--data-root={directory / 'data'}",
            f"--exec-root={directory / 'exec'}",
            f"--pidfile={directory / 'pid'}",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{directory.name}",
        ]
        command = [*_APART, "sh", "-c", _START, "dockerd", *options]
        log = directory / "log"
        with (
            log.open("w") as written,
            subprocess.Popen(command, env=told, stdout=written, stderr=written) as process,
        ):
            entering = ("nsenter", f"--net=/proc/{process.pid}/ns/net")
            try:
                _wait_answering(process, told, log)
                yield Engine(True, ("docker-compose",), told, entering)
            finally:
                _end(process)
        _remove_cgroups(directory.name)


def _wait_answering(
    process: subprocess.Popen[bytes], environment: Mapping[str, str], log: Path
) -> None:
    def ended_or_answers() -> bool:
        ended = process.poll() is not None
        return ended or _run("docker", "version", environment=environment).returncode == 0

    if not until(ended_or_answers, _START_SECONDS) or process.poll() is not None:
        said = " ".join(log.read_text().splitlines()[-3:])
        pytest.skip(f"no Docker engine runs here, and one of Debian's did not start: {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started: what `unshare` forked is the first process of their namespace."""
    if process.poll() is None:
        (first,) = psutil.Process(process.pid).children()
        first.kill()


def _remove_cgroups(name: str) -> None:
    """The engine leaves them behind, empty."""
    for each in Path("/sys/fs/cgroup").glob(f"**/{name}"):
        for inner in sorted((path for path in each.rglob("*") if path.is_dir()), reverse=True):
            inner.rmdir()
        each.rmdir()


def _run(
    *command: str, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command),
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
