"""Ranks that are killed in the middle of requests, which go on nonetheless."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.running_cluster import RunningCluster, running_cluster, until
from tests.system.test_redis_store import tensors
from triptych import Client, Generation, NoCache, TeaCache
from triptych.domain.events import StepCompleted
from triptych.events import Event

STEPS, EVERY = 42, 4
TEA_CACHE = TeaCache(rel_l1_thresh=0.3, coefficients=(0.0, 0.0, 0.0, 1.0, 0.0))
CACHES = {"uncached": NoCache(), "tea_cache": TEA_CACHE}


@pytest.fixture(scope="module", params=["shm", pytest.param("redis", marks=pytest.mark.exhaustive)])
def cluster(request: pytest.FixtureRequest) -> Iterator[RunningCluster]:
    environment = {
        "TRIPTYCH_DENOISER_CHECKPOINT_STEPS": str(EVERY),
        "TRIPTYCH_DENOISER_ORDER": "round_robin",
        # What a killed rank left would be gone at once.
        "TRIPTYCH_DENOISER_SWEEP_SECONDS": "0.2",
        "TRIPTYCH_ENCODER_SWEEP_SECONDS": "0.2",
    }
    store = () if request.param == "shm" else ("--store", request.param)
    with running_cluster("--cfg", "2", *store, environment=environment) as running:
        yield running


def stored(cluster: RunningCluster) -> int:
    """Tensors that nobody has released."""
    if "redis+unix" in cluster.output:
        return len(tensors(cluster))
    return len(cluster.stored_tensors())


def draw(client: Client, seed: int, cache: NoCache | TeaCache, **told: object) -> Generation:
    return client.generate(
        "two red hearts", steps=STEPS, seed=seed, cache=cache, guidance_scale=4.0, **told
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [pytest.param("uncached", marks=pytest.mark.exhaustive), "tea_cache"]
)
def test_clients_of_ranks_that_are_killed_get_every_step_once_and_the_right_bits(
    cluster: RunningCluster, name: str
) -> None:
    cache, steps = CACHES[name], {1: [], 2: []}
    cluster.wait_serving()
    ranks = cluster.ranks

    def follow(seed: int, event: Event) -> None:
        if isinstance(event, StepCompleted):
            steps[seed].append(event.step)
            if seed == 1 and event.step in (STEPS // 3, STEPS // 2):
                # First the one that has stored the latents, then the one that has only its branch.
                number = int(event.step == STEPS // 2)
                cluster.ranks[number].send_signal(signal.SIGKILL)

    with cluster.client() as client, ThreadPoolExecutor(2) as both:
        expected = [draw(client, seed, cache) for seed in steps]
        drawn = list(
            both.map(
                lambda seed: draw(client, seed, cache, on_event=lambda event: follow(seed, event)),
                steps,
            )
        )
    for before, after in zip(expected, drawn, strict=True):
        assert after.latents_checksum_xxh3 == before.latents_checksum_xxh3
        assert after.data == before.data
        assert after.cache_statistics is None or (
            after.cache_statistics.branches == before.cache_statistics.branches
        )
    assert steps == {seed: list(range(1, STEPS + 1)) for seed in steps}
    assert not any(rank.is_running() for rank in ranks)
    assert until(lambda: stored(cluster) == 0), stored(cluster)
