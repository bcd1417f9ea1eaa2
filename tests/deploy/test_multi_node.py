"""A denoiser over several pods, with the processes that the chart would have started."""

from collections.abc import Iterator

import psutil
import pytest

from tests.deploy.helm import rendered
from tests.deploy.pods import RunningPods, some_network
from tests.system.further_denoiser import wait_serving
from tests.system.running_cluster import MODEL, running_cluster, until
from tests.valkey_server import key_value_server
from triptych import Client, Generation, UnavailableError
from triptych.domain.events import StepCompleted
from triptych.events import Event

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

VALUES = {
    "topology": "disaggregated",
    "model.source": str(MODEL),
    "model.dtype": "float32",
    "drainSeconds": "10",
    "denoiser.nodes": "2",
    "denoiser.cfg": "2",
    "denoiser.env.GLOO_SOCKET_IFNAME": "lo",
}
LEADER = "release-triptych-denoiser-group-0"
WORKER = f"{LEADER}-1"


def draw(client: Client) -> Generation:
    return client.generate("two red hearts", steps=4, seed=5)


@pytest.fixture(scope="module")
def expected() -> Generation:
    """From one process."""
    with running_cluster("--topology", "fused") as cluster, cluster.client() as client:
        return draw(client)


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPods]:
    network = some_network()
    store = f"{network}.250"
    values = VALUES | {"store.redis.host": "redis.data.svc"}
    manifests = rendered("--set", ",".join(f"{name}={value}" for name, value in values.items()))
    with key_value_server("--bind", store, "--port", "6379"):
        running = RunningPods(
            manifests, tmp_path_factory.mktemp("pods"), network, {"redis.data.svc": store}
        )
        try:
            running.start()
            yield running
        finally:
            running.close()


@pytest.fixture
def client(pods: RunningPods) -> Iterator[Client]:
    (gateway,) = (each for each in pods.pods.values() if each.name.endswith("-gateway"))
    target = f"{gateway.address}:7843"
    wait_serving(target, 300)
    with Client(target, timeout=60) as client:
        yield client


def test_a_group_draws_the_bits_of_one_process(client: Client, expected: Generation) -> None:
    drawn = draw(client)
    assert drawn.parallel_degrees.ranks == 2
    assert drawn.latents_checksum_xxh3 == expected.latents_checksum_xxh3
    assert drawn.data == expected.data


def ranks(pods: RunningPods) -> list[psutil.Process]:
    """torchrun's own process comes first in each pod."""
    return [pods.processes(pod, "ranks")[1] for pod in (LEADER, WORKER)]


def wait_replaced(client: Client, before: list[psutil.Process]) -> None:
    assert until(lambda: not any(each.is_running() for each in before), 100)
    assert until(lambda: _served(client), 300)


def test_a_group_that_is_told_to_end_finishes_what_it_draws(
    pods: RunningPods, client: Client
) -> None:
    before = ranks(pods)

    def end(event: Event) -> None:
        if isinstance(event, StepCompleted) and event.step == 2:
            for pod in (LEADER, WORKER):
                pods.terminate(pod)

    drawn = client.generate("two red hearts", steps=20, seed=5, on_event=end)
    wait_replaced(client, before)
    again = client.generate("two red hearts", steps=20, seed=5)
    assert drawn.latents_checksum_xxh3 == again.latents_checksum_xxh3


@pytest.mark.parametrize("pod", [LEADER, WORKER])
def test_a_group_draws_again_after_the_ranks_of_a_pod_were_killed(
    pods: RunningPods, client: Client, expected: Generation, pod: str
) -> None:
    before = ranks(pods)
    pods.kill(pod, "ranks")
    wait_replaced(client, before)
    assert draw(client).latents_checksum_xxh3 == expected.latents_checksum_xxh3


def _served(client: Client) -> bool:
    try:
        return bool(client.models())
    except UnavailableError:
        return False
