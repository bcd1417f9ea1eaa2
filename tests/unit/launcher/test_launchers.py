"""Processes that were forked are as those that were executed, and end with their starter."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.unit.launcher.told_process import MODULE
from triptych.launcher.command import Command
from triptych.launcher.fork_launcher import ForkLauncher
from triptych.launcher.launcher import ExecLauncher, Launcher
from triptych.launcher.parentage import adopting
from triptych.launcher.process import LaunchedProcess

PATIENCE_SECONDS = 40


@dataclass
class Forking:
    """A fork launcher, and what it said of lost servers."""

    launcher: ForkLauncher
    lost: list[str]

    @property
    def server(self) -> psutil.Process:
        assert self.launcher._server is not None
        return psutil.Process(self.launcher._server._process.pid)


@pytest.fixture
async def forking() -> AsyncIterator[Forking]:
    lost: list[str] = []
    before = psutil.Process().children(recursive=True)
    launcher = ForkLauncher([MODULE], lost.append)
    yield Forking(launcher, lost)
    await launcher.close()
    assert psutil.Process().children(recursive=True) == before


@pytest.fixture(params=["exec", "fork"])
def launcher(request: pytest.FixtureRequest, forking: Forking) -> Launcher:
    return ExecLauncher() if request.param == "exec" else forking.launcher


def told(*what: str, **more: object) -> Command:
    return Command(module=MODULE, arguments=what, heavy=True, **more)


async def ended(process: LaunchedProcess) -> int:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await process.wait()


async def output(launcher: Launcher, *what: str, **more: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    files = [os.memfd_create(each) for each in ("out", "err")]
    try:
        process = await launcher.launch(told(*what, stdout=files[0], stderr=files[1], **more))
        code = await ended(process)
        return code, *(os.pread(each, 1 << 20, 0).decode() for each in files)
    finally:
        for each in files:
            os.close(each)


async def test_a_forked_process_is_as_an_executed_one(forking: Forking) -> None:
    variables = {"TRIPTYCH_TEST": "1", "RANK": "3"}
    channel, other = os.pipe()
    try:
        born = [
            await output(launcher, "report", variables=variables, descriptors=(channel,))
            for launcher in (ExecLauncher(), forking.launcher)
        ]
    finally:
        os.close(channel)
        os.close(other)
    assert [code for code, _, _ in born] == [0, 0]
    executed, forked = (json.loads(said) for _, said, _ in born)
    assert forked == executed
    assert forked["parent"] == os.getpid()
    assert forked["descriptors"] == [0, 1, 2, channel]
    assert forked["variables"].items() >= variables.items()
    assert forked["name"] == "__main__"
    assert forking.server.is_running(), "it was really forked"


async def test_each_process_draws_random_numbers_of_its_own(launcher: Launcher) -> None:
    drawn = [(await output(launcher, "draw"))[1] for _ in range(2)]
    assert not {*json.loads(drawn[0])} & {*json.loads(drawn[1])}


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        (("exit", "0"), 0, ""),
        (("exit", "7"), 7, ""),
        (("refuse",), 1, "cannot\n"),
        (("fail",), 1, "ZeroDivisionError"),
        (("interrupt",), -signal.SIGINT, "KeyboardInterrupt"),
        (("kill",), -signal.SIGKILL, ""),
    ],
)
async def test_how_a_process_ends_reaches_its_starter(
    launcher: Launcher, what: tuple[str, ...], code: int, said: str
) -> None:
    found, _, error = await output(launcher, *what)
    assert found == code
    assert said in error if said else not error


async def test_what_is_to_be_done_at_the_end_is_done(launcher: Launcher) -> None:
    assert await output(launcher, "say at the end") == (0, "the end\n", "")


async def test_a_process_is_given_its_descriptors(launcher: Launcher) -> None:
    reading, writing = os.pipe()
    try:
        process = await launcher.launch(told("write", str(writing), descriptors=(writing,)))
        os.close(writing)
        assert os.read(reading, 100) == b"hello"
        assert os.read(reading, 100) == b"", "nobody else has it"
        assert await ended(process) == 0
    finally:
        os.close(reading)


async def test_signals_reach_a_process(launcher: Launcher) -> None:
    process = await launcher.launch(told("wait"))
    assert process.poll() is None
    process.terminate()
    assert await asyncio.gather(ended(process), ended(process)) == [-signal.SIGTERM] * 2
    process.kill()
    assert process.poll() == -signal.SIGTERM


async def test_a_variable_that_libraries_read_when_imported_takes_an_interpreter_of_its_own(
    forking: Forking,
) -> None:
    _, said, _ = await output(forking.launcher, "report", variables={"OMP_NUM_THREADS": "3"})
    assert json.loads(said)["variables"]["OMP_NUM_THREADS"] == "3"
    assert forking.launcher._server is None, "no server was needed"


async def test_what_is_light_does_not_wait_for_a_server(forking: Forking) -> None:
    process = await forking.launcher.launch(Command(module=MODULE, arguments=("exit", "3")))
    assert await ended(process) == 3
    assert forking.launcher._server is None


async def test_a_server_that_dies_is_replaced(forking: Forking) -> None:
    for signal_number in (signal.SIGKILL, signal.SIGTERM):
        assert await ended(await forking.launcher.launch(told("exit", "5"))) == 5
        server = forking.server
        server.send_signal(signal_number)
        _wait_ended(server)
        process = await forking.launcher.launch(told("exit", "5"))
        assert await ended(process) == 5
        assert forking.server != server
    assert forking.lost == ["it ended", "it ended"]


async def test_children_of_a_server_that_dies_go_on(forking: Forking) -> None:
    process = await forking.launcher.launch(told("wait"))
    forking.server.kill()
    _wait_ended(forking.server)
    assert process.poll() is None
    process.terminate()
    assert await ended(process) == -signal.SIGTERM


async def test_a_server_that_does_not_answer_is_given_up(
    forking: Forking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triptych.launcher.fork_server_link._REPLY_SECONDS", 0.2)
    assert await ended(await forking.launcher.launch(told("exit", "5"))) == 5
    forking.server.suspend()
    assert await ended(await forking.launcher.launch(told("exit", "5"))) == 5
    assert forking.lost == ["it did not fork within 0.2 s"]


@pytest.mark.parametrize("module", ["tests.unit.launcher.absent", "tests.unit.launcher.threaded"])
async def test_a_server_that_cannot_be_used_is_not_tried_again(module: str) -> None:
    lost: list[str] = []
    nothing = os.open(os.devnull, os.O_WRONLY)
    launcher = ForkLauncher([module], lost.append, nothing)
    try:
        for _ in range(2):
            assert await ended(await launcher.launch(told("exit", "5"))) == 5
    finally:
        await launcher.close()
        os.close(nothing)
    reasons = {"absent": "it ended", "threaded": "the imported modules have started 1 threads"}
    assert lost == [reasons[module.rpartition(".")[2]]]


async def test_libraries_with_thread_pools_can_be_forked_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    lost: list[str] = []
    launcher = ForkLauncher(["tests.unit.launcher.computing"], lost.append)
    try:
        assert await ended(await launcher.launch(told("exit", "5"))) == 5
        assert launcher._server is not None
    finally:
        await launcher.close()
    assert lost == []


async def test_a_launch_that_is_cancelled_leaves_nothing(forking: Forking) -> None:
    assert await ended(await forking.launcher.launch(told("exit", "0"))) == 0
    before = psutil.Process().children()
    launching = asyncio.create_task(forking.launcher.launch(told("wait")))
    await asyncio.sleep(0)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert psutil.Process().children() == before


async def test_a_forked_process_forks_its_own_from_what_it_was_born_with(
    forking: Forking,
) -> None:
    code, said, _ = await output(forking.launcher, "start", children=(MODULE,))
    assert code == 0
    started, report = map(json.loads, said.splitlines())
    assert started["inherited"]
    assert report["leads its session"]


@pytest.mark.parametrize("forked", [True, False])
async def test_no_server_outlives_a_starter_that_is_killed(forking: Forking, forked: bool) -> None:
    launcher = forking.launcher if forked else ExecLauncher()
    reading, writing = os.pipe()
    process = await launcher.launch(
        told("start and wait", stdout=writing, children=(MODULE,) if forked else ())
    )
    os.close(writing)
    with os.fdopen(reading) as said:
        child = json.loads(said.readline())["child"]
    family = psutil.Process(process.pid).children()
    assert len(family) == 2, "a server and its own child"
    process.kill()
    assert await ended(process) == -signal.SIGKILL
    # The child was told nothing of its parent, unlike those of the product.
    os.kill(child, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
    assert not alive


def test_orphans_are_adopted_only_inside_the_block() -> None:
    def is_adopter() -> bool:
        from triptych.launcher.parentage import _is_adopter

        return _is_adopter()

    with adopting(), adopting():
        assert is_adopter()
    assert not is_adopter()


def _wait_ended(process: psutil.Process) -> None:
    while Path(f"/proc/{process.pid}").exists() and process.status() != psutil.STATUS_ZOMBIE:
        pass


async def test_nothing_of_the_directory_that_a_process_is_started_in_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "this.py").write_text("raise SystemExit(3)")
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").write_text("raise SystemExit(4)")
    monkeypatch.chdir(tmp_path)
    for module in ("this", "services.gateway.settings"):
        process = await ExecLauncher().launch(Command(module=module))
        assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0
