"""A cancelled request stops at the next step and leaves nothing behind."""

import random
from contextlib import closing

import pytest

from services.domain.deadline import Deadline
from services.rpc.stage_clients import RemoteDenoiser
from tests.system.running_cluster import RunningCluster
from triptych import DeadlineExceededError
from triptych.events import StepCompleted


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


async def test_a_cancel_at_a_random_step_stops_the_loop_within_one_step(
    split_cluster: RunningCluster,
) -> None:
    for _ in range(3):
        before = await idle_steps(split_cluster)
        last = random.randint(1, 40)
        with (
            split_cluster.client() as client,
            closing(client.stream("a red circle", steps=150)) as events,
        ):
            seen = next(
                event.step
                for event in events
                if isinstance(event, StepCompleted) and event.step >= last
            )
            # Steps go on while this test reads; what counts is where the loop is when it is told.
            at_cancel, _ = await completed_steps(split_cluster)
        after = await idle_steps(split_cluster)

        assert after - before >= seen
        # One step may be under way, and one may begin while the cancel travels there.
        assert after - at_cancel <= 2
        assert after - before < 150
    assert split_cluster.stored_tensors() == []


async def test_a_deadline_that_passes_stops_the_loop(split_cluster: RunningCluster) -> None:
    before = await idle_steps(split_cluster)
    with split_cluster.client() as client, pytest.raises(DeadlineExceededError):
        client.generate("a red circle", steps=200, timeout=1.0)
    after = await idle_steps(split_cluster)

    assert after - before < 200
    assert split_cluster.stored_tensors() == []
