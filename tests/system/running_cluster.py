"""A real cluster, started the way a person starts one: `triptych up` in a process of its own."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.processes import MODULES, Process, start
from triptych import Client, UnavailableError
from triptych.launcher.launcher import Launcher

MODEL = Path(__file__).parents[2] / "models" / "demo"
TRIPTYCH = Path(sys.executable).parent / "triptych"
READY_SECONDS = 110

_STARTED = re.compile(r"^(\w+)\s+(?:re)?started.*\bpid (\d+)", re.MULTILINE)
_READY = re.compile(r"^ready\s+(\S+?),", re.MULTILINE)
_STORE = re.compile(r"^tensors\s+shm://(\S+)", re.MULTILINE)
_LOGS = re.compile(r"^logs\s+(\S+)", re.MULTILINE)


class RunningCluster:
    """What `triptych up` says about itself, followed as it is written."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._output = ""
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All it has written."""
        with self._grown:
            return self._output

    def wait_for(self, pattern: re.Pattern[str], seconds: float = READY_SECONDS) -> re.Match[str]:
        """Waits until its output has a match."""
        with self._grown:
            found = self._grown.wait_for(
                lambda: pattern.search(self._output) or not self._reader.is_alive(), seconds
            )
            match = pattern.search(self._output)
        assert match, f"no {pattern.pattern!r} in time (ended: {found!r}):\n{self._output}"
        return match

    @property
    def target(self) -> str:
        """Where the gateway listens."""
        return self.wait_for(_READY).group(1)

    @property
    def store(self) -> Path:
        """The directory of the tensor store."""
        return Path(self.wait_for(_STORE).group(1))

    @property
    def sockets(self) -> Path:
        """The directory of the stages' sockets."""
        return Path(self.wait_for(_LOGS).group(1)).parent

    @property
    def logs(self) -> Path:
        """The directory of the processes' logs."""
        return Path(self.wait_for(_LOGS).group(1))

    def pid(self, name: str) -> int:
        """The process that was started last under a name; "rank" is the denoiser's child."""
        if name == "rank":
            (rank,) = self.ranks
            return rank.pid
        return [int(pid) for each, pid in _STARTED.findall(self.output) if each == name][-1]

    @property
    def ranks(self) -> list[psutil.Process]:
        """The denoiser's ranks, by their numbers."""
        children = psutil.Process(self.pid("denoiser")).children()
        # The other is what they are forked from; they are started one after another.
        ranks = [each for each in children if "denoiser_service.rank" in " ".join(each.cmdline())]
        return sorted(ranks, key=lambda each: (each.create_time(), each.pid))

    def kill(self, name: str) -> None:
        """Kills a process with SIGKILL."""
        os.kill(self.pid(name), signal.SIGKILL)

    def client(self) -> Client:
        """A client of it."""
        return Client(self.target, timeout=60)

    def wait_serving(self, seconds: float = 60) -> None:
        """Follows the gateway's health service until it serves."""
        with closing(self._health(seconds, self.target)) as health:
            next(serving for serving in health if serving)

    @contextmanager
    def healing(self, killed: str, seconds: float = 90) -> Iterator[None]:
        """Leaves once what is killed inside is replaced and requests are served.

        Args:
            killed: a process's name; "rank" is the denoiser's child.
            seconds: how long that may take.
        """
        stage = "denoiser" if killed == "rank" else killed
        # The gateway itself may not have looked before a stage is back.
        watched = self.target if killed == "gateway" else f"unix:{self.sockets}/{stage}.sock"
        health = self._health(seconds, watched)
        assert next(health), "not serving before"
        # Watched from before the block, so that not even a short outage is missed.
        healed = threading.Thread(target=lambda: _outage_and_recovery(health), daemon=True)
        healed.start()
        yield
        healed.join(seconds)
        assert not healed.is_alive(), "did not heal in time"
        if killed != "gateway":
            assert until(self._draws), "nothing is drawn"

    def _draws(self) -> bool:
        """Whether a request is served; not where a stage has not been reached again yet."""
        with self.client() as client:
            try:
                client.generate("a red circle", steps=2)
            except UnavailableError:
                return False
        return True

    def _health(self, seconds: float, target: str) -> Generator[bool, None, None]:
        """Whether a process serves, whenever that changes; False as well when it dies."""
        request = health_pb2.HealthCheckRequest()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            with grpc.insecure_channel(target) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                call = stub.Watch(request, timeout=left, wait_for_ready=True)
                try:
                    for answer in call:
                        yield answer.status == health_pb2.HealthCheckResponse.SERVING
                except grpc.RpcError:
                    yield False

    def stored_tensors(self) -> list[Path]:
        """Files of tensors that nobody has released; memory kept for the next ones is none."""
        return list(self.store.glob("*/live/*"))

    def stop(self) -> int:
        """Ends it as Ctrl-C does; returns its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def close(self) -> None:
        """Reads what is left of the output, once the process has ended."""
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._grown:
                self._output += line
                self._grown.notify_all()
        with self._grown:
            self._grown.notify_all()


def _outage_and_recovery(health: Generator[bool, None, None]) -> None:
    with closing(health):
        next(serving for serving in health if not serving)
        next(serving for serving in health if serving)


def until(condition: Callable[[], bool], seconds: float = 30, pausing: float = 0.02) -> bool:
    """Looks again and again; for what announces itself to nobody. False if it never came true."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(pausing)
    return True


@contextmanager
def running_cluster(
    *options: str,
    model: Path = MODEL,
    environment: Mapping[str, str] = MappingProxyType({}),
    launcher: Launcher | None = None,
) -> Iterator[RunningCluster]:
    """A cluster that serves the demo model on a free port.

    Args:
        options: further ones of `triptych up`.
        model: another model's directory.
        environment: further variables for all of its processes.
        launcher: EXEC for an interpreter of its own.
    """
    process = start(
        *("triptych", "up", "--model", str(model), "--listen", "127.0.0.1:0", *options),
        environment=environment,
        piped=True,
        children=MODULES,
        launcher=launcher,
    )
    cluster = RunningCluster(process)
    try:
        assert cluster.target
        yield cluster
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()
            cluster.close()
