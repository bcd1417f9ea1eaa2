"""Processes of ours, as tests start them: forks of one server, which each process of tests has.

A few start by exec: tests/unit/launcher (both ways, compared); a whole cluster in
tests/system/test_processes.py; ranks whose environment is read, in test_rank_group.py; a
supervisor that is killed, in test_supervisor.py; tests/integration/test_hub_models.py, whose
variables are read by libraries when they are imported; tests/unit/rpc/test_process.py; and
tests/architecture.
"""

import asyncio
import atexit
import os
import pkgutil
import signal
import subprocess
import threading
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from io import TextIOWrapper
from select import select
from types import MappingProxyType
from typing import Final, TypeVar

from services import model_families
from triptych.launcher.command import Command
from triptych.launcher.fork_launcher import ForkLauncher
from triptych.launcher.fork_server_link import ForkServerLink
from triptych.launcher.launcher import ExecLauncher, Launcher
from triptych.launcher.process import LaunchedProcess

T = TypeVar("T")

EXEC: Final = ExecLauncher()
_STARTED: Final = (
    *("triptych", "encoder_service", "denoiser_service", "denoiser_service.rank", "vae_service"),
    *("services.gateway", "services.fused", "services.tuning.calibrate", "services.tuning.tune"),
)
_LOADED_LATER: Final = tuple(
    module.name
    for family in pkgutil.iter_modules(model_families.__path__, f"{model_families.__name__}.")
    for module in pkgutil.iter_modules(import_module(family.name).__path__, f"{family.name}.")
)
MODULES: Final = (*_STARTED, *_LOADED_LATER)
"""What tests start, and what it loads models with; its libraries are imported once."""

_NOT_TOLD: Final = {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR"}
"""What pytest and torch themselves set in a process of tests."""


class SharedLauncher:
    """Forks from this process's server; that one stays for the next test."""

    def __init__(self) -> None:
        self._forking = ForkLauncher(MODULES)
        self._imported_with = _environment()

    async def ready(self) -> None:
        """Starts the server, and waits until it has imported what tests start."""
        nothing = Command(module="this", stdout=os.open(os.devnull, os.O_WRONLY), heavy=True)
        await (await self._forking.launch(nothing)).wait()
        os.close(nothing.standard[1])
        assert self.server is not None, "the server is of no use"

    @property
    def server(self) -> ForkServerLink | None:
        """What all are forked from."""
        return self._forking._server

    async def launch(self, command: Command) -> LaunchedProcess:
        """See Launcher."""
        now = _environment()
        if self._imported_with.keys() - now.keys():
            return await EXEC.launch(command)
        new = {name: now[name] for name, _ in now.items() - self._imported_with.items()}
        variables = {**new, **command.variables}
        return await self._forking.launch(replace(command, variables=variables))

    async def close(self) -> None:
        """For whoever owns its launcher; this one is the tests'."""

    async def end(self) -> None:
        """Ends the server, with the process of tests."""
        await self._forking.close()


@cache
def shared_launcher() -> SharedLauncher:
    """This process's; its server is ready, so that no test's bound has to allow for that."""
    launcher = SharedLauncher()
    _in_loop(launcher.ready())
    atexit.register(lambda: _in_loop(launcher.end()))
    return launcher


class Process:
    """A process that a test started, to be used as one of `subprocess`.

    Attributes:
        stdin: what it reads, if that was asked for.
        stdout: what it writes, if that was asked for.
    """

    def __init__(
        self,
        launched: LaunchedProcess,
        stdin: TextIOWrapper | None = None,
        stdout: TextIOWrapper | None = None,
    ) -> None:
        self._launched = launched
        self.pid = launched.pid
        self.stdin = stdin
        self.stdout = stdout

    @property
    def returncode(self) -> int | None:
        return self._launched.poll()

    def poll(self) -> int | None:
        return self._launched.poll()

    def wait(self, timeout: float | None = None) -> int:
        if self._launched.poll() is None:
            select([self._launched.fileno()], [], [], timeout)
        code = self._launched.poll()
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        self._launched.send_signal(signal.Signals(number))

    def terminate(self) -> None:
        self._launched.terminate()

    def kill(self) -> None:
        self._launched.kill()


def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] = MappingProxyType({}),
    fed: bool = False,
    piped: bool = False,
    stderr: int | None = None,
    children: Sequence[str] = (),
    launcher: Launcher | None = None,
) -> Process:
    """Starts a process.

    Args:
        module: what it runs.
        arguments: what it is told.
        environment: further variables.
        fed: whether its input is to be written.
        piped: whether its output is to be read.
        stderr: descriptor of its standard error; by default its output's if that is piped, and the
            tests' own if it is fed as well.
        children: modules that it starts itself.
        launcher: EXEC for an interpreter of its own.
    """
    reading, writing = os.pipe() if piped else (None, None)
    stdin, feeding = os.pipe() if fed else (os.open(os.devnull, os.O_RDONLY), None)
    command = Command(
        module=module,
        arguments=arguments,
        variables=environment,
        stdin=stdin,
        stdout=writing,
        stderr=writing if stderr is None and not fed else stderr,
        heavy=True,
        children=tuple(children),
    )
    try:
        launched = _in_loop((launcher or shared_launcher()).launch(command))
    finally:
        for descriptor in (stdin, writing):
            if descriptor is not None:
                os.close(descriptor)
    return Process(
        launched,
        None if feeding is None else os.fdopen(feeding, "w"),
        None if reading is None else os.fdopen(reading, buffering=1),
    )


def run(
    module: str,
    *arguments: object,
    seconds: float = 100,
    environment: Mapping[str, str] = MappingProxyType({}),
    children: Sequence[str] = (),
    launcher: Launcher | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a process to its end, and takes down what it writes.

    Args:
        module: see start.
        arguments: see start.
        seconds: how long it may take.
        environment: see start.
        children: see start.
        launcher: see start.
    """
    words = [str(each) for each in arguments]
    files = [os.memfd_create(each) for each in ("out", "err")]
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        command = Command(
            module=module,
            arguments=tuple(words),
            variables=environment,
            stdin=nothing,
            stdout=files[0],
            stderr=files[1],
            heavy=True,
            children=tuple(children),
        )
        process = Process(_in_loop((launcher or shared_launcher()).launch(command)))
        try:
            code = process.wait(seconds)
        finally:
            process.kill()
            process.wait()
        said = [os.pread(each, os.fstat(each).st_size, 0).decode() for each in files]
        return subprocess.CompletedProcess([module, *words], code, *said)
    finally:
        for descriptor in (nothing, *files):
            os.close(descriptor)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_TOLD}


def _in_loop(work: Awaitable[T]) -> T:
    """Awaits from where a loop may be running already."""

    async def awaited() -> T:
        return await work

    return asyncio.run_coroutine_threadsafe(awaited(), _loop()).result()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    # What it starts ends with this thread, and this thread with the process.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="processes", daemon=True).start()
    return loop
