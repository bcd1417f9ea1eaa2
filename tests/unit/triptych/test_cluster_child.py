"""What a local cluster does with processes that cannot be started, or do not end."""

import asyncio
import errno
import os
from pathlib import Path
from typing import cast

import pytest

from triptych.cluster import child
from triptych.cluster.backoff import Backoff
from triptych.cluster.errors import ClusterConfigurationError, ClusterFailedError
from triptych.cluster.events import ClusterEvent, ProcessNotStarted, ProcessStarted, ProcessStuck
from triptych.cluster.supervisor import Supervisor
from triptych.cluster.topology import ProcessSpec
from triptych.launcher.launcher import Launcher
from triptych.launcher.process import LaunchedProcess


class Asleep:
    """A process that no signal ends."""

    pid = 2**22 + 1

    def poll(self) -> int | None:
        return None

    def terminate(self) -> None:
        pass

    async def wait(self) -> int:
        await asyncio.Event().wait()
        return 0


class ScriptedLauncher:
    """Starts what the test gives it; raises what is an error."""

    def __init__(self, *outcomes: Exception | Asleep) -> None:
        self._outcomes = iter(outcomes)

    async def launch(self, _: object) -> LaunchedProcess:
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return cast("LaunchedProcess", outcome)


class Supervised:
    """A supervised process, and what is told of it."""

    def __init__(self, folder: Path, *outcomes: Exception | Asleep, attempts: int = 5) -> None:
        self.told: asyncio.Queue[ClusterEvent] = asyncio.Queue()
        spec = ProcessSpec("vae", "vae_service")
        self.supervisor = Supervisor(
            spec,
            folder / "log",
            launcher=cast("Launcher", ScriptedLauncher(*outcomes)),
            backoff=Backoff(first_seconds=0.01),
            start_attempts=attempts,
            on_event=self.told.put_nowait,
        )


@pytest.fixture
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "killpg", lambda _pid, _number: None)


def lacking(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.usefixtures("no_signals")
async def test_a_process_that_cannot_be_killed_is_left_behind_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_KILL_SECONDS", 0.05)
    each = Supervised(tmp_path, Asleep())
    running = each.supervisor.start()
    async with asyncio.timeout(10):
        assert await each.told.get() == ProcessStarted("vae", Asleep.pid)
        await each.supervisor.stop(grace_seconds=0.01)
        assert await each.told.get() == ProcessStuck("vae", Asleep.pid)
    assert running.done()


@pytest.mark.usefixtures("no_signals")
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
async def test_a_process_that_cannot_be_started_now_is_started_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(child, "_KILL_SECONDS", 0.05)
    each = Supervised(tmp_path, lacking(number), Asleep())
    each.supervisor.start()
    async with asyncio.timeout(10):
        assert await each.told.get() == ProcessNotStarted("vae", os.strerror(number), 0.01)
        assert await each.told.get() == ProcessStarted("vae", Asleep.pid)
        await each.supervisor.stop(grace_seconds=0.01)


async def test_a_cluster_that_never_has_what_it_takes_gives_up(tmp_path: Path) -> None:
    each = Supervised(tmp_path, *[lacking(errno.ENOMEM)] * 2, attempts=2)
    with pytest.raises(ClusterFailedError, match="the vae cannot be started: Cannot allocate"):
        await each.supervisor.start()


async def test_a_program_that_is_not_there_is_a_matter_of_configuration(tmp_path: Path) -> None:
    each = Supervised(tmp_path, FileNotFoundError(errno.ENOENT, "No such file", "valkey"))
    with pytest.raises(ClusterConfigurationError, match="cannot start the vae: No such file"):
        await each.supervisor.start()
