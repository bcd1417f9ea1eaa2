"""kill -9 of anything: the client gets its picture, the cluster heals, nothing stays behind."""

from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.system.running_cluster import RunningCluster, running_cluster, until
from triptych import Client, TriptychError, UnavailableError
from triptych.domain.events import StageStarted, StepCompleted
from triptych.events import Event

PROCESSES = ("gateway", "encoder", "denoiser", "rank", "vae")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    # What a killed gateway could not release goes when its time is up: long after any request here.
    times = {
        f"TRIPTYCH_{stage}_{setting}": seconds
        for stage in ("ENCODER", "DENOISER", "VAE")
        for setting, seconds in (("TENSOR_TTL_SECONDS", "10"), ("SWEEP_SECONDS", "2"))
    }
    with running_cluster("--topology", "split", environment=times) as running:
        yield running


def kill_during(cluster: RunningCluster, client: Client, name: str) -> bytes | TriptychError:
    """Kills a process in the middle of the request it should hurt; returns what came of that."""

    def kill_in_time(event: Event) -> None:
        encoding = isinstance(event, StageStarted) and event.stage == "encoder"
        stepping = isinstance(event, StepCompleted) and event.step == 5
        if encoding if name == "encoder" else stepping:
            cluster.kill(name)

    # Tensors that nobody releases, as those of a gateway that keeps its jobs in its own memory,
    # stay until the request's deadline.
    seconds = 20 if name == "gateway" else 100
    try:
        return drawn(client, on_event=kill_in_time, timeout=seconds)
    except TriptychError as error:
        return error


def drawn(client: Client, **told: Any) -> bytes:
    """The picture that every request here asks for."""
    return client.generate("a red circle", steps=30, seed=5, **told).data


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_kill_costs_time_and_no_bit_and_the_next_request_succeeds(
    name: str, cluster: RunningCluster
) -> None:
    cluster.wait_serving()
    pid = cluster.pid(name)
    with cluster.healing(name), cluster.client() as client:
        outcome = kill_during(cluster, client, name)
    assert cluster.pid(name) != pid
    with cluster.client() as client:
        expected = drawn(client)
    if name == "gateway":
        assert isinstance(outcome, UnavailableError), repr(outcome)
        assert "cannot be reached" in str(outcome)
    else:
        assert outcome == expected
    assert until(lambda: cluster.stored_tensors() == [], seconds=60), cluster.stored_tensors()


def test_nothing_outlives_the_cluster() -> None:
    with running_cluster("--topology", "split") as cluster:
        family = psutil.Process(cluster.process.pid).children(recursive=True)
        store, sockets = cluster.store, cluster.sockets
        with cluster.client() as client:
            client.generate("a red circle", steps=2)
        assert cluster.stop() == 0

    assert not any(each.is_running() for each in family)
    assert not store.exists()
    assert not sockets.exists()


def test_a_killed_supervisor_takes_everything_with_it() -> None:
    with running_cluster("--topology", "split") as cluster:
        family = psutil.Process(cluster.process.pid).children(recursive=True)
        cluster.process.kill()
        _, alive = psutil.wait_procs(family, timeout=30)

    assert alive == []
