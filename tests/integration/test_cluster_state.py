"""A local cluster's jobs, in the server that it starts for them, after one cluster and another."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.jobs.ledger import JobLedger
from services.jobs.opening import open_ledger
from tests.integration.test_local_cluster import (
    ScriptedTopology,
    Witness,
    spec,
    start_and_end,
)
from tests.unit.jobs.benches import submission
from triptych.cluster.address import Address
from triptych.cluster.cluster import LocalCluster
from triptych.cluster.errors import ClusterConfigurationError, ClusterFailedError
from triptych.cluster.topology import Processes, ledger
from triptych.cluster.workplace import Workplace


@dataclass
class TopologyWithLedger(ScriptedTopology):
    """Nobody but the test writes to it."""

    def processes(self, address: Address, place: Workplace, drain_seconds: float) -> Processes:
        self.place = place
        gateway = self._process("gateway", "--serve", str(address))
        return Processes(gateway, servers=ledger(place))


@pytest.fixture
def topology(tmp_path: Path) -> TopologyWithLedger:
    return TopologyWithLedger(tmp_path / "journal")


@asynccontextmanager
async def opened(cluster: LocalCluster) -> AsyncIterator[JobLedger]:
    # As a gateway opens it: what its server has answered to has to be on the disk.
    jobs = await open_ledger(cluster.place.jobs_url)
    try:
        yield jobs
    finally:
        await jobs.close()


async def test_jobs_are_there_in_the_next_cluster_on_a_state(
    topology: TopologyWithLedger, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    async with LocalCluster(spec(topology, state=state)) as first, opened(first) as jobs:
        record = (await jobs.submit(submission(b"accepted"))).record
    async with LocalCluster(spec(topology, state=state)) as second, opened(second) as jobs:
        assert second.place.directory != first.place.directory
        assert await jobs.get(record.key) == record


async def test_a_server_that_is_killed_is_started_again_with_all_jobs(
    topology: TopologyWithLedger, tmp_path: Path
) -> None:
    witness = Witness()
    cluster = LocalCluster(spec(topology, state=tmp_path / "state"), witness)
    async with cluster, opened(cluster) as jobs:
        record = (await jobs.submit(submission(b"accepted"))).record
        pid = cluster.process_ids["ledger"]
        os.kill(pid, signal.SIGKILL)
        await witness.saw_another_life("ledger", pid)
        assert await jobs.get(record.key) == record


async def test_a_cluster_does_not_start_on_the_state_of_one_that_runs(
    topology: TopologyWithLedger, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    async with LocalCluster(spec(topology, state=state)):
        other = ScriptedTopology(tmp_path / "other")
        with pytest.raises(ClusterConfigurationError, match=f"{state} is in use by the cluster"):
            await start_and_end(LocalCluster(spec(other, state=state)))
        assert not other.journal.exists(), "nothing was started"


async def test_a_state_that_was_damaged_fails_the_start_and_is_left_as_it_is(
    topology: TopologyWithLedger, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    async with LocalCluster(spec(topology, state=state)) as cluster, opened(cluster) as jobs:
        await jobs.submit(submission(b"accepted" * 100))
    (log,) = (state / "jobs" / "appendonlydir").glob("*.incr.aof")
    damaged = bytearray(log.read_bytes())
    damaged[100:120] = b"\n" * 20
    log.write_bytes(damaged)
    topology.flags["gateway"] = ["--needs", "the ledger"]
    with pytest.raises(ClusterFailedError, match=r"the ledger exited with code 1(.|\n)*format"):
        await start_and_end(LocalCluster(spec(topology, state=state)))
    assert log.read_bytes() == damaged
