"""Four ranks behind one denoiser: what one suffers costs a request time, and nothing else."""

import io
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.system.further_denoiser import further_denoiser
from tests.system.running_cluster import RunningCluster, running_cluster, until
from triptych import CacheDit, Client, Generation, NoCache
from triptych.domain.events import StepCompleted
from triptych.domain.parallel import ParallelDegrees
from triptych.events import Event

DEGREES = {"cfg": 2, "ring": 2, "ulysses": 1}
SILENCE_SECONDS = 3.0
# Of a death the kernel tells: half of the silence after which a hung rank is noticed. A beat may
# just have come, and processes take turns on two busy cores.
NOTICED_SECONDS = {
    signal.SIGKILL: SILENCE_SECONDS / 2,
    signal.SIGSTOP: SILENCE_SECONDS * 9 / 8 + 1.0,
}
REBUILD_SECONDS = 100


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    environment = {
        "TRIPTYCH_DENOISER_SILENCE_SECONDS": f"{SILENCE_SECONDS:g}",
        "TRIPTYCH_DENOISER_ORDER": "round_robin",
        "TRIPTYCH_DENOISER_SWEEP_SECONDS": "2",
        "TRIPTYCH_ENCODER_SWEEP_SECONDS": "2",
        "TRIPTYCH_VAE_SWEEP_SECONDS": "2",
    }
    options = [flag for name, degree in DEGREES.items() for flag in (f"--{name}", str(degree))]
    with running_cluster(*options, environment=environment) as running:
        yield running


def draw(client: Client, steps: int = 4, **told: Any) -> Generation:
    return client.generate("two red hearts", steps=steps, seed=5, **told)


def levels(generation: Generation) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(generation.data)), dtype=np.int16)


def hurt_in_a_step(
    client: Client, ranks: Sequence[psutil.Process], number: int, sent: signal.Signals
) -> Generation:
    """Hurts a rank in the middle of a request, which is drawn all the same."""

    def hurt(event: Event) -> None:
        if isinstance(event, StepCompleted) and event.step == 5:
            ranks[number].send_signal(sent)
            gone = until(lambda: not any(map(_is_running, ranks)), NOTICED_SECONDS[sent])
            assert gone, "the others did not go with it in time"

    return draw(client, steps=20, on_event=hurt)


def _is_running(rank: psutil.Process) -> bool:
    return rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE


def owners(cluster: RunningCluster) -> int:
    """Directories of processes in the tensor store; those of dead ones are swept."""
    return len([each for each in cluster.store.iterdir() if len(each.name) == 32])


@contextmanager
def all_ranks_replaced(cluster: RunningCluster) -> Iterator[list[psutil.Process]]:
    """The ranks as they are; left when none of them is there, and others are in their place."""
    cluster.wait_serving(REBUILD_SECONDS)
    ranks, before = cluster.ranks, owners(cluster)
    with cluster.healing("rank", REBUILD_SECONDS):
        yield ranks
    assert not any(each.is_running() for each in ranks), "the others went with it"
    assert len(cluster.ranks) == len(ranks)
    assert until(lambda: cluster.stored_tensors() == []), cluster.stored_tensors()
    assert until(lambda: owners(cluster) <= before)


def check(cluster: RunningCluster, number: int, sent: signal.Signals, *, idle: bool) -> None:
    with cluster.client() as client:
        steps = 4 if idle else 20
        expected = draw(client, steps)
        with all_ranks_replaced(cluster) as ranks:
            if idle:
                ranks[number].send_signal(sent)
            else:
                hurt = hurt_in_a_step(client, ranks, number, sent)
                assert hurt.data == expected.data
        again = draw(client, steps)
    assert again.latents_checksum_xxh3 == expected.latents_checksum_xxh3
    assert again.data == expected.data


CASES = pytest.mark.parametrize(
    ("number", "sent", "idle"),
    [
        pytest.param(1, signal.SIGKILL, False),
        pytest.param(2, signal.SIGSTOP, False),
        pytest.param(3, signal.SIGKILL, True, marks=pytest.mark.exhaustive),
        pytest.param(0, signal.SIGSTOP, True, marks=pytest.mark.exhaustive),
    ],
    ids=["killed in a step", "stopped in a step", "killed idle", "stopped idle"],
)


@pytest.mark.timeout(300)
@CASES
def test_a_rank_that_is_lost_costs_time_and_no_bit(
    cluster: RunningCluster, number: int, sent: signal.Signals, idle: bool
) -> None:
    check(cluster, number, sent, idle=idle)


@pytest.mark.exhaustive
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("idle", [False, True], ids=["in a step", "idle"])
def test_ranks_are_lost_twenty_times_in_a_row(
    cluster: RunningCluster, sent: signal.Signals, idle: bool
) -> None:
    for turn in range(20):
        check(cluster, turn % 4, sent, idle=idle)


def test_a_request_that_leaves_at_a_step_leaves_the_others_their_bits(
    cluster: RunningCluster,
) -> None:
    cluster.wait_serving(REBUILD_SECONDS)
    begun = threading.Event()
    with cluster.client() as client, ThreadPoolExecutor(1) as beside:
        alone = draw(client, steps=30)

        def on_event(event: Event) -> None:
            if isinstance(event, StepCompleted) and event.step == 3:
                begun.set()

        other = beside.submit(
            client.generate, "two red hearts", steps=30, seed=5, on_event=on_event
        )
        with closing(client.stream("a green star", steps=150)) as events:
            assert begun.wait(60)
            # Both take turns by now; this one hangs up.
            steps = (each for each in events if isinstance(each, StepCompleted))
            next(steps)
        assert other.result().latents_checksum_xxh3 == alone.latents_checksum_xxh3
    assert until(lambda: cluster.stored_tensors() == [])


@pytest.mark.timeout(300)
def test_four_ranks_and_one_draw_the_same_picture_behind_one_gateway(
    cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cluster.wait_serving(REBUILD_SECONDS)
    folder = tmp_path_factory.mktemp("g")
    with further_denoiser(cluster, folder, beside=True) as client, ThreadPoolExecutor(2) as both:
        # At once, so that each of the replicas gets one.
        drawn = list(both.map(lambda _: draw(client, steps=20), range(2)))
    assert {each.parallel_degrees.ranks for each in drawn} == {1, 4}
    first, second = drawn
    assert abs(levels(first) - levels(second)).max() <= 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("scale", "cache", "degrees"),
    [
        (4.0, CacheDit(max_warmup_steps=2), ParallelDegrees(cfg=2, ring=2)),
        # With one branch, all four ranks share its sequence.
        (1.0, NoCache(), ParallelDegrees(ring=4)),
    ],
    ids=["guided and cached", "unguided"],
)
def test_four_ranks_draw_what_one_draws(
    cluster: RunningCluster,
    split_cluster: RunningCluster,
    scale: float,
    cache: NoCache | CacheDit,
    degrees: ParallelDegrees,
) -> None:
    cluster.wait_serving(REBUILD_SECONDS)
    drawn = []
    for each in (cluster, split_cluster):
        with each.client() as client:
            drawn.append(draw(client, steps=6, guidance_scale=scale, cache=cache))
    many, one = drawn
    assert many.parallel_degrees == degrees
    assert one.parallel_degrees == ParallelDegrees()
    # Rounding may tip a level over.
    assert abs(levels(many) - levels(one)).max() <= 1
    if many.cache_statistics is not None:
        assert one.cache_statistics is not None
        assert many.cache_statistics.branches == one.cache_statistics.branches


def test_an_idle_group_outlives_the_time_out_of_its_collectives() -> None:
    # Which is also the process group's.
    environment = {"TRIPTYCH_DENOISER_COMMAND_SECONDS": "8"}
    with running_cluster("--ring", "2", environment=environment) as cluster:
        ranks = cluster.ranks
        with cluster.client() as client:
            before = draw(client)
            # Not for anything to happen: for nothing to.
            threading.Event().wait(10)
            assert draw(client).data == before.data
        assert cluster.ranks == ranks
