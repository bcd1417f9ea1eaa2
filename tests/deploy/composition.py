"""What docker-compose.yml describes, running."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.deploy.engine import ROOT, Engine
from tests.system.running_cluster import TRIPTYCH, until
from triptych.cli.exit_codes import ExitCode

IMAGES = ("triptych-gateway", "triptych-stage")
_PROJECT = "triptych-trial"
_HEALTHY_SECONDS = 300
_DRAWING_SECONDS = 600
_KILL = "import os, sys; os.kill(int(sys.argv[1]), 9)"


class Composition:
    """A project of its own, whatever else the engine runs.

    Args:
        engine: to run it.
    """

    def __init__(self, engine: Engine) -> None:
        gateway, prometheus = _free_ports(2)
        self._engine = engine
        self._target = f"127.0.0.1:{gateway}"
        self._variables = {
            "COMPOSE_PROJECT_NAME": _PROJECT,
            "TRIPTYCH_PORT": str(gateway),
            "TRIPTYCH_PROMETHEUS_PORT": str(prometheus),
        }

    def compose(self, *arguments: object) -> str:
        """What Compose prints; fails if it fails."""
        return self._engine.compose(*arguments, **self._variables)

    def start(self) -> None:
        """Starts what does not run, and returns once the gateway serves."""
        self.compose("up", "--detach")
        self.wait_serving()

    def wait_serving(self) -> None:
        """Until the gateway finds every stage ready."""

        def serves() -> bool:
            return self._triptych("health", self._target).returncode == 0

        assert until(serves, _HEALTHY_SECONDS, 1), self.compose("logs", "--tail=20")

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        labels = {"project": _PROJECT, "service": service}
        chosen = [f"--filter=label=com.docker.compose.{key}={of}" for key, of in labels.items()]
        (name,) = self._engine.docker("ps", "--all", "--quiet", *chosen).split()
        (found,) = json.loads(self._engine.docker("inspect", name))
        known: dict[str, Any] = found
        return known

    def kill(self, service: str) -> None:
        """Kills a container's main process with SIGKILL, and returns once it is healthy again."""
        before = self.inspect(service)
        # From outside: a container that was ended by `docker kill` is not started again, and from
        # inside its first process cannot be killed.
        outside = ("--rm", "--pid=host", "--user=0", "--network=none", "--entrypoint=python")
        self._engine.docker("run", *outside, IMAGES[0], "-c", _KILL, before["State"]["Pid"])

        def healthy_again() -> bool:
            now = self.inspect(service)
            restarts, health = now["RestartCount"], now["State"]["Health"]["Status"]
            return (restarts, health) == (before["RestartCount"] + 1, "healthy")

        assert until(healthy_again, _HEALTHY_SECONDS, 1), self.inspect(service)["State"]

    def execute(self, service: str, *command: str) -> str:
        """What a command prints in a service's container; fails if it fails."""
        return self._engine.docker("exec", self.inspect(service)["Id"], *command)

    def log(self, service: str) -> list[dict[str, Any]]:
        """What one of our processes has logged; libraries may have written lines of their own."""
        lines = self._engine.docker("logs", self.inspect(service)["Id"]).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def generate(self, output: Path, *options: str, patience: float = 0) -> dict[str, Any]:
        """Draws by the gateway; returns what the command says of it.

        Args:
            output: file to write.
            options: further ones of the command.
            patience: seconds for which it is repeated while the cluster says to try again.
        """
        deadline = time.monotonic() + patience
        asked = ("generate", *_asked(output, *options), "--target", self._target)
        while (ran := self._triptych(*asked)).returncode == ExitCode.UNAVAILABLE:
            if time.monotonic() > deadline:
                break
        return _report(ran)

    def _triptych(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _run(*self._engine.entering, str(TRIPTYCH), *arguments)


def generate_fused(output: Path, *options: str) -> dict[str, Any]:
    """Draws in one process, outside any container; returns what the command says of it."""
    model = ("--topology", "fused", "--model", str(ROOT / "models" / "demo"))
    return _report(_run(str(TRIPTYCH), "generate", *_asked(output, *options), *model))


def _asked(output: Path, *options: str) -> list[str]:
    prompt = "a red circle on a blue background"
    return [prompt, "--seed=7", f"--output={output}", "--json", *options]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command), capture_output=True, text=True, check=False, timeout=_DRAWING_SECONDS
    )


def _report(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        bound = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in bound]


@contextmanager
def built_images(engine: Engine) -> Iterator[Composition]:
    """A project whose images are built; takes away what it made.

    Args:
        engine: to build them.
    """
    there = _images(engine)
    project = Composition(engine)
    try:
        project.compose("build")
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout=60")
        for image in _images(engine) - there:
            engine.docker("image", "rm", image)


def _images(engine: Engine) -> set[str]:
    return set(IMAGES) & set(engine.docker("image", "ls", "--format={{.Repository}}").split())
