"""`triptych up` on a directory that outlives it."""

import signal
from pathlib import Path

import pytest

from services.jobs.ledger import JobLedger
from services.jobs.opening import open_ledger
from tests.processes import run
from tests.system.running_cluster import MODEL, RunningCluster, running_cluster
from tests.unit.jobs.benches import submission

pytestmark = pytest.mark.timeout(240)


async def jobs_of(cluster: RunningCluster) -> JobLedger:
    # By names of its own: the gateway would work on what it finds under its.
    return await open_ledger(f"redis+unix://{cluster.sockets}/ledger.sock?key_prefix=tested")


async def test_what_a_killed_cluster_had_accepted_and_drawn_is_there_in_the_next(
    tmp_path: Path,
) -> None:
    options = ("--topology", "fused", "--state", str(tmp_path / "state"))
    with running_cluster(*options) as first:
        with first.client() as client:
            drawn = client.generate("a red circle", steps=2)
        jobs = await jobs_of(first)
        record = (await jobs.submit(submission(b"accepted"))).record
        await jobs.close()
        refused = run("triptych", "up", "--model", MODEL, "--listen", "127.0.0.1:0", *options)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(60)
    assert "is in use by the cluster of process" in refused.stderr
    with running_cluster(*options) as second:
        jobs = await jobs_of(second)
        assert await jobs.get(record.key) == record
        await jobs.close()
        with second.client() as client:
            assert client.download(drawn.artifacts[0].artifact_id).data == drawn.data
