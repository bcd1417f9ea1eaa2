"""The local cluster with real processes that follow a script."""

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from triptych.cluster.address import Address
from triptych.cluster.backoff import Backoff
from triptych.cluster.cluster import ClusterSpec, LocalCluster
from triptych.cluster.errors import ClusterConfigurationError, ClusterFailedError
from triptych.cluster.events import ClusterEvent, ProcessDied, ProcessStarted
from triptych.cluster.readiness import until_serving
from triptych.cluster.topology import Processes, ProcessSpec
from triptych.cluster.workplace import Workplace, workplace

SCRIPT = "tests.integration.scripted_process"
ANY_PORT = Address("127.0.0.1", 0)
PATIENCE_SECONDS = 30


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory that leaves room for a socket's path, which has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="t-") as directory:
        yield Path(directory)


@dataclass
class ScriptedTopology:
    """A gateway and two stages, each with flags of its own."""

    journal: Path
    flags: dict[str, list[str]] = field(default_factory=dict)
    place: Workplace | None = None

    def processes(self, address: Address, place: Workplace, drain_seconds: float) -> Processes:
        self.place = place
        gateway = self._process("gateway", "--serve", str(address), "--needs", "encoder", "vae")
        return Processes(gateway, (self._process("encoder"), self._process("vae")))

    def _process(self, name: str, *more: str) -> ProcessSpec:
        told = ["--name", name, "--journal", str(self.journal)]
        return ProcessSpec(name, SCRIPT, (*told, *more, *self.flags.get(name, [])))

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()


class Witness:
    """Remembers what the cluster tells, and waits for it."""

    def __init__(self) -> None:
        self.events: list[ClusterEvent] = []
        self._changed = asyncio.Event()

    def __call__(self, event: ClusterEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def saw(self, wanted: Callable[[ClusterEvent], bool]) -> ClusterEvent:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                self._changed.clear()
                await self._changed.wait()

    async def saw_another_life(self, name: str, pid: int) -> int:
        def new(event: ClusterEvent) -> bool:
            return isinstance(event, ProcessStarted) and event.name == name and event.pid != pid

        return (await self.saw(new)).pid


@pytest.fixture
def topology(tmp_path: Path) -> ScriptedTopology:
    return ScriptedTopology(tmp_path / "journal")


@pytest.fixture(autouse=True)
def nothing_left_behind(topology: ScriptedTopology) -> Iterator[None]:
    """What every test here promises: no process, no runtime directory, no store."""
    before = set(psutil.Process().children(recursive=True))
    yield
    # Other tests' clusters may be running all along.
    assert set(psutil.Process().children(recursive=True)) - before == set()
    if topology.place is not None:
        assert not topology.place.directory.exists()
        assert not Path(topology.place.store_url.removeprefix("shm://")).exists()


def spec(topology: ScriptedTopology, **changes: object) -> ClusterSpec:
    quick = {
        "address": ANY_PORT,
        "ready_seconds": PATIENCE_SECONDS,
        "drain_seconds": PATIENCE_SECONDS,
        "backoff": lambda: Backoff(first_seconds=0.01),
    }
    return ClusterSpec(topology=topology, **(quick | changes))


async def start_and_end(cluster: LocalCluster) -> None:
    async with cluster:
        pass


async def test_cluster_serves_where_it_says_once_it_is_entered(topology: ScriptedTopology) -> None:
    async with LocalCluster(spec(topology)) as cluster:
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", cluster.target)
        await asyncio.wait_for(until_serving(cluster.target), PATIENCE_SECONDS)
        assert set(cluster.process_ids) == {"encoder", "vae", "gateway"}
        for pid in cluster.process_ids.values():
            assert psutil.Process(pid).is_running()


async def test_gateway_is_drained_before_the_stages_it_needs(topology: ScriptedTopology) -> None:
    async with LocalCluster(spec(topology)):
        pass
    ends = [line for line in topology.lines() if line.endswith(("draining", "ended"))]
    assert ends[:2] == ["gateway draining", "gateway ended"]
    assert sorted(ends[2:]) == ["encoder draining", "encoder ended", "vae draining", "vae ended"]


@pytest.mark.parametrize("name", ["encoder", "gateway"])
async def test_killed_process_is_started_again(topology: ScriptedTopology, name: str) -> None:
    witness = Witness()
    async with LocalCluster(spec(topology), witness) as cluster:
        pid = cluster.process_ids[name]
        os.kill(pid, signal.SIGKILL)
        died = await witness.saw(lambda event: isinstance(event, ProcessDied))
        assert died == ProcessDied(name, pid, "was killed by SIGKILL", 0.01)
        new_pid = await witness.saw_another_life(name, pid)
        assert cluster.process_ids[name] == new_pid
        await asyncio.wait_for(until_serving(cluster.target), PATIENCE_SECONDS)


async def test_process_that_ends_well_but_unasked_is_started_again(
    topology: ScriptedTopology,
) -> None:
    witness = Witness()
    async with LocalCluster(spec(topology), witness) as cluster:
        pid = cluster.process_ids["vae"]
        os.kill(pid, signal.SIGTERM)
        died = await witness.saw(lambda event: isinstance(event, ProcessDied))
        assert died.how == "exited with code 0"
        await witness.saw_another_life("vae", pid)


async def test_children_of_a_killed_process_go_with_it(
    topology: ScriptedTopology, tmp_path: Path
) -> None:
    pid_file = tmp_path / "child"
    topology.flags["encoder"] = ["--child", str(pid_file)]
    witness = Witness()
    async with LocalCluster(spec(topology), witness) as cluster:
        child = psutil.Process(int(pid_file.read_text()))
        pid = cluster.process_ids["encoder"]
        os.kill(pid, signal.SIGKILL)
        await witness.saw_another_life("encoder", pid)
        child.wait(PATIENCE_SECONDS)


async def test_refused_configuration_fails_the_start_with_the_process_own_words(
    topology: ScriptedTopology,
) -> None:
    topology.flags["vae"] = ["--refuse", "settings: dtype: is int3; allowed are float32"]
    witness = Witness()
    with pytest.raises(ClusterConfigurationError) as refused:
        await start_and_end(LocalCluster(spec(topology), witness))
    assert str(refused.value) == "the vae cannot start: " + topology.flags["vae"][1]
    assert topology.lines().count("vae started") == 1
    assert not any(isinstance(event, ProcessDied) for event in witness.events)


async def test_refused_configuration_of_a_later_life_fails_the_running_cluster(
    topology: ScriptedTopology, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    topology.flags["vae"] = ["--refuse", "the store is gone", "--refuse-only-if", str(marker)]
    async with LocalCluster(spec(topology)) as cluster:
        marker.touch()
        os.kill(cluster.process_ids["vae"], signal.SIGKILL)
        with pytest.raises(ClusterConfigurationError, match="the store is gone"):
            await asyncio.wait_for(cluster.wait(), PATIENCE_SECONDS)


async def test_process_that_never_comes_up_fails_the_start_with_its_last_lines(
    topology: ScriptedTopology,
) -> None:
    topology.flags["encoder"] = ["--crash", "MemoryError: no room for the weights"]
    with pytest.raises(ClusterFailedError) as failed:
        await start_and_end(LocalCluster(spec(topology, start_attempts=3)))
    assert "the encoder exited with code 1, 3 times in a row" in str(failed.value)
    assert "no room for the weights" in str(failed.value)
    assert topology.lines().count("encoder started") == 3


async def test_process_that_the_system_kills_whenever_it_has_almost_loaded_fails_the_start(
    topology: ScriptedTopology,
) -> None:
    topology.flags["encoder"] = ["--killed"]

    def forgetful() -> Backoff:
        # As if each life had been a long one: a large model takes minutes to load.
        return Backoff(first_seconds=0.01, healthy_seconds=1e-6)

    with pytest.raises(ClusterFailedError) as failed:
        await start_and_end(LocalCluster(spec(topology, start_attempts=3, backoff=forgetful)))
    assert "the encoder was killed by SIGKILL, 3 times in a row; " in str(failed.value)
    assert "has most often run out of memory" in str(failed.value)
    assert "--dtype" in str(failed.value)
    assert topology.lines().count("encoder started") == 3


async def test_gateway_that_never_serves_fails_the_start(topology: ScriptedTopology) -> None:
    topology.flags["gateway"] = ["--needs", "somebody who never comes"]
    with pytest.raises(ClusterFailedError, match=r"not ready after 1 s(.|\n)*\[gateway\]"):
        await start_and_end(LocalCluster(spec(topology, ready_seconds=1)))


async def test_unknown_program_fails_the_start(
    topology: ScriptedTopology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/at-all")
    with pytest.raises(ClusterConfigurationError, match=r"cannot start the .*: .*/nowhere"):
        await start_and_end(LocalCluster(spec(topology)))


async def test_deaf_process_is_killed_after_its_grace(topology: ScriptedTopology) -> None:
    topology.flags["encoder"] = ["--ignore-sigterm"]
    async with LocalCluster(spec(topology, drain_seconds=0.2, grace_seconds=0.2)) as cluster:
        pid = cluster.process_ids["encoder"]
    assert not psutil.pid_exists(pid)
    assert "encoder ended" not in topology.lines()
    assert "vae ended" in topology.lines()


async def test_second_cancellation_ends_a_deaf_cluster_at_once(topology: ScriptedTopology) -> None:
    topology.flags = {"gateway": ["--ignore-sigterm"], "encoder": ["--ignore-sigterm"]}
    ready = asyncio.Event()

    async def serve() -> None:
        async with LocalCluster(spec(topology)) as cluster:
            ready.set()
            await cluster.wait()

    serving = asyncio.create_task(serve())
    await asyncio.wait_for(ready.wait(), PATIENCE_SECONDS)
    serving.cancel()
    _, deaf = await asyncio.wait([serving], timeout=0.5)
    assert deaf, "nothing but a kill ends the gateway"
    serving.cancel()
    await asyncio.wait([serving], timeout=PATIENCE_SECONDS / 2)
    assert serving.cancelled()


async def test_cancelled_start_leaves_nothing(topology: ScriptedTopology) -> None:
    topology.flags["gateway"] = ["--needs", "somebody who never comes"]
    witness = Witness()
    starting = asyncio.create_task(start_and_end(LocalCluster(spec(topology), witness)))
    await witness.saw(lambda event: event.name == "gateway")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_port_in_use_is_refused_before_anything_starts(topology: ScriptedTopology) -> None:
    with socket.socket() as taken:
        # As gRPC servers do: without the check two clusters would share the port.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address(*taken.getsockname())
        with pytest.raises(ClusterConfigurationError) as refused:
            await start_and_end(LocalCluster(spec(topology, address=address)))
    assert f"{address} is in use" in str(refused.value)
    assert "--listen" in str(refused.value)
    assert not topology.journal.exists()


async def test_address_of_another_machine_is_refused(topology: ScriptedTopology) -> None:
    with pytest.raises(ClusterConfigurationError, match=r"cannot listen on 192\.0\.2\.1:80"):
        await start_and_end(LocalCluster(spec(topology, address=Address("192.0.2.1", 80))))


async def test_logs_of_the_user_stay(topology: ScriptedTopology, tmp_path: Path) -> None:
    logs = tmp_path / "deep" / "logs"
    async with LocalCluster(spec(topology, logs=logs)):
        pass
    for name in ("encoder", "vae", "gateway"):
        assert '"event": "starting"' in (logs / f"{name}.log").read_text()


async def test_store_of_the_user_is_passed_on_and_left_alone(
    topology: ScriptedTopology, tmp_path: Path
) -> None:
    (tmp_path / "kept").touch()
    async with LocalCluster(spec(topology, store_url=f"shm://{tmp_path}")) as cluster:
        assert cluster.place.store_url == f"shm://{tmp_path}"
    assert (tmp_path / "kept").exists()
    topology.place = None


def test_workplace_is_private(tmp_path: Path) -> None:
    with workplace(parent=tmp_path) as place:
        assert stat.S_IMODE(place.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(place.secret_file.stat().st_mode) == 0o600
        assert re.fullmatch(r"[0-9a-f]{64}", place.secret_file.read_text())
        store = Path(place.store_url.removeprefix("shm://"))
        assert stat.S_IMODE(store.stat().st_mode) == 0o700
        (store / "left-behind").touch()
    assert list(tmp_path.iterdir()) == []
    assert not store.exists()


def test_workplace_of_a_killed_cluster_is_removed_by_the_next(short_path: Path) -> None:
    memory, parent = short_path / "memory", short_path / "parent"
    memory.mkdir()
    parent.mkdir()
    paths = f"parent=Path({str(parent)!r}), shared_memory=Path({str(memory)!r})"
    script = (
        "import os, signal; from pathlib import Path;"
        "from triptych.cluster.workplace import workplace;"
        f"kept = workplace({paths}); kept.__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with workplace(parent=parent, shared_memory=memory) as alive:
        subprocess.run([sys.executable, "-c", script], check=False, timeout=PATIENCE_SECONDS)
        assert len(list(parent.iterdir())) == len(list(memory.iterdir())) == 2
        with workplace(parent=parent, shared_memory=memory):
            assert len(list(parent.iterdir())) == len(list(memory.iterdir())) == 2
        assert [alive.directory] == list(parent.iterdir())
        assert alive.secret_file.exists()
    assert [*parent.iterdir(), *memory.iterdir()] == []


def test_store_goes_beside_the_sockets_where_there_is_no_shared_memory(tmp_path: Path) -> None:
    with workplace(parent=tmp_path, shared_memory=tmp_path / "absent") as place:
        assert Path(place.store_url.removeprefix("shm://")).is_relative_to(place.directory)
    assert list(tmp_path.iterdir()) == []


def test_directory_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with (
        pytest.raises(ClusterConfigurationError, match="unix sockets allow 107; set TMPDIR"),
        workplace(parent=deep),
    ):
        pass
    assert list(deep.iterdir()) == []
