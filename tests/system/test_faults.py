"""kill -9 of anything: the client gets an answer, the cluster heals, nothing stays behind."""

from collections.abc import Iterator

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


def kill_during(cluster: RunningCluster, client: Client, name: str) -> TriptychError | None:
    """Kills a process in the middle of the request it should hurt; returns the client's error."""

    def kill_in_time(event: Event) -> None:
        encoding = isinstance(event, StageStarted) and event.stage == "encoder"
        stepping = isinstance(event, StepCompleted) and event.step == 5
        if encoding if name == "encoder" else stepping:
            cluster.kill(name)

    try:
        # Tensors that nobody releases stay until the request's deadline.
        client.generate("a red circle", steps=60, on_event=kill_in_time, timeout=20)
    except TriptychError as error:
        return error
    return None


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PROCESSES)
def test_after_a_kill_the_next_request_succeeds(name: str, cluster: RunningCluster) -> None:
    cluster.wait_serving()
    pid = cluster.pid(name)
    with cluster.healing(name), cluster.client() as client:
        error = kill_during(cluster, client, name)
    if error is None:
        # One that has answered, or is back before its turn, may die without the request noticing.
        assert name in {"encoder", "vae"}, f"the request did not notice that {name} was killed"
    else:
        assert isinstance(error, UnavailableError), repr(error)
        assert "repeat" in str(error) or "cannot be reached" in str(error)

    assert cluster.pid(name) != pid
    with cluster.client() as client:
        assert client.generate("a red circle", steps=2).data.startswith(b"\x89PNG")
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
