"""`triptych up` on a directory that outlives it."""

import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes import run
from tests.system.running_cluster import MODEL, running_cluster
from triptych.domain.events import StepCompleted
from triptych.domain.job import JobState

pytestmark = pytest.mark.timeout(240)
STEPS = 100
PROMPT, SEED = "two red hearts", 5


@pytest.mark.parametrize("topology", ["split", pytest.param("fused", marks=pytest.mark.exhaustive)])
def test_what_a_killed_cluster_had_accepted_and_drawn_is_there_in_the_next(
    tmp_path: Path, topology: str
) -> None:
    options = ("--topology", topology, "--state", str(tmp_path / "state"))
    # Or the next one would wait for a lease before it takes the job up.
    prefix = {"fused": "TRIPTYCH_FUSED", "split": "TRIPTYCH_GATEWAY"}[topology]
    environment = {f"{prefix}_JOB_LEASE_SECONDS": "2"}
    with running_cluster(*options, environment=environment) as first:
        with first.client() as client:
            done = client.submit(PROMPT, steps=2, seed=SEED, request_id="mine")
            drawn = client.fetch(done.job_id)
            expected = client.generate(PROMPT, steps=STEPS, seed=SEED)
            refused = run("triptych", "up", "--model", MODEL, "--listen", "127.0.0.1:0", *options)
            at_work = client.submit(PROMPT, steps=STEPS, seed=SEED)
            with closing(client.watch(at_work.job_id)) as events:
                next(each for each in events if isinstance(each, StepCompleted))
                first.process.send_signal(signal.SIGKILL)
        first.process.wait(60)
        killed = time.time()
    assert "is in use by the cluster of process" in refused.stderr
    with running_cluster(*options, environment=environment) as second, second.client() as client:
        assert client.get(done.job_id).state is JobState.SUCCEEDED
        assert client.submit(PROMPT, steps=2, seed=SEED, request_id="mine").job_id == done.job_id
        assert client.fetch(done.job_id).data == drawn.data
        # Its tensors were the first cluster's; its bits are the same.
        assert client.fetch(at_work.job_id).data == expected.data
        ended = client.get(at_work.job_id).end_time
        assert ended is not None
        assert ended > killed, "it was done before"
