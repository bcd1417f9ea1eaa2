"""A cancelled request stops at the next step and leaves nothing behind."""

import random
from collections.abc import Iterator
from contextlib import closing

import pytest

from services.rpc.stage_clients import RemoteDenoiser
from tests.system.running_cluster import RunningCluster, until
from triptych import CancelledError, DeadlineExceededError
from triptych.domain.call_seal import CallSeal
from triptych.domain.deadline import Deadline
from triptych.domain.events import Accepted, StepCompleted
from triptych.events import Event


async def completed_steps(cluster: RunningCluster) -> tuple[int, int]:
    """Steps the ranks have done since they started, and requests they have now."""
    denoiser = RemoteDenoiser(f"unix:{cluster.sockets}/denoiser.sock")
    try:
        capacity = await denoiser.capacity(Deadline.after(10))
    finally:
        await denoiser.close()
    assert capacity.rank_group is not None
    busy = capacity.running_requests + capacity.queued_requests
    return capacity.rank_group.completed_steps, busy


async def idle_steps(cluster: RunningCluster) -> int:
    """The step counter once the ranks have nothing to do."""
    deadline = Deadline.after(20)
    while True:
        steps, busy = await completed_steps(cluster)
        if not busy:
            return steps
        deadline.check("waiting for the ranks to be idle")


def read_to_a_random_step(events: Iterator[Event], latest: int = 40) -> str:
    """Returns the job's id, some steps into the loop."""
    last = random.randint(1, latest)
    job_id = ""
    for event in events:
        if isinstance(event, Accepted):
            job_id = event.job_id
        if isinstance(event, StepCompleted) and event.step >= last:
            break
    return job_id


async def test_a_cancelled_loop_does_no_step_beyond_the_one_under_way(
    split_cluster: RunningCluster,
) -> None:
    seal = CallSeal((split_cluster.sockets / "secret").read_text())
    denoiser = RemoteDenoiser(f"unix:{split_cluster.sockets}/denoiser.sock", seal=seal)
    try:
        for _ in range(3):
            before = await idle_steps(split_cluster)
            with split_cluster.client() as client:
                events = client.stream("a red circle", steps=150)
                job_id = read_to_a_random_step(events)
                cancelled_after = await denoiser.cancel(job_id, Deadline.after(60))
                with pytest.raises(CancelledError, match="of 150 steps were done"):
                    list(events)
            done = await idle_steps(split_cluster) - before

            assert cancelled_after <= done <= cancelled_after + 1 < 150
            assert until(lambda: split_cluster.stored_tensors() == [])
    finally:
        await denoiser.close()


async def test_a_client_that_hangs_up_at_a_random_step_stops_the_loop(
    split_cluster: RunningCluster,
) -> None:
    for _ in range(3):
        before = await idle_steps(split_cluster)
        with (
            split_cluster.client() as client,
            # So large that its steps take longer than the news, on a busy machine too.
            closing(client.stream("a red circle", steps=150, width=256, height=256)) as events,
        ):
            read_to_a_random_step(events, latest=20)
            assert split_cluster.stored_tensors(), "the conditioning is stored while it is needed"
            at_hang_up, _ = await completed_steps(split_cluster)
        done = await idle_steps(split_cluster)

        # One step is under way, and one may begin while the news travels through the gateway.
        assert done - at_hang_up <= 2
        assert done - before < 150
        assert until(lambda: split_cluster.stored_tensors() == [])


async def test_a_deadline_that_passes_stops_the_loop(split_cluster: RunningCluster) -> None:
    before = await idle_steps(split_cluster)
    with split_cluster.client() as client, pytest.raises(DeadlineExceededError):
        client.generate("a red circle", steps=200, timeout=1.0)
    after = await idle_steps(split_cluster)

    assert after - before < 200
    assert until(lambda: split_cluster.stored_tensors() == [])
