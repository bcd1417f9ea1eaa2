"""A cluster whose tensors pass through a server, as they do between hosts."""

import re
from collections.abc import Iterator

import pytest
from redis import Redis

from tests.system.running_cluster import RunningCluster, running_cluster, until
from triptych import Generation, UnavailableError
from triptych.domain.events import StepCompleted
from triptych.events import Event

pytestmark = pytest.mark.timeout(240)
PROMPT, SEED = "a red circle on a blue background", 7
_STORE = re.compile(r"^tensors\s+redis\+unix://(\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster("--store", "redis") as cluster:
        yield cluster


def server(cluster: RunningCluster) -> Redis:
    return Redis(unix_socket_path=cluster.wait_for(_STORE).group(1))


def tensors(cluster: RunningCluster) -> list[bytes]:
    """Keys of tensors that nobody has released; what is remembered of prompts is none."""
    return [key for key in server(cluster).keys("*") if b":cache:" not in key]


def draw(cluster: RunningCluster, steps: int = 4) -> Generation:
    with cluster.client() as client:
        return client.generate(PROMPT, steps=steps, seed=SEED)


def test_the_bits_are_those_of_shared_memory_and_nothing_stays(cluster: RunningCluster) -> None:
    drawn = draw(cluster)
    with running_cluster() as other:
        assert drawn.data == draw(other).data
    assert until(lambda: tensors(cluster) == [])


def test_a_server_killed_under_a_request_costs_that_request_at_most(
    cluster: RunningCluster,
) -> None:
    before = draw(cluster)

    def kill(event: Event) -> None:
        if isinstance(event, StepCompleted) and event.step == 3:
            cluster.kill("store")

    with cluster.client() as client:
        try:
            # Its latents may find the next server already.
            assert client.generate(PROMPT, steps=40, seed=SEED, on_event=kill).data
        except UnavailableError as error:
            assert "tensor store" in str(error)  # noqa: PT017 — either is right

    def draws_again() -> bool:
        try:
            return draw(cluster).data == before.data
        except UnavailableError:
            # Not all have noticed yet; what it says is that the request may be repeated.
            return False

    assert until(draws_again, 60)
    assert until(lambda: tensors(cluster) == [])
