"""A pod with all stages, with the processes that the chart would have started."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.deploy.helm import rendered
from tests.deploy.pods import RunningPods, some_network
from tests.system.further_denoiser import wait_serving
from tests.system.running_cluster import MODEL
from triptych import Client
from triptych.domain.events import StepCompleted
from triptych.events import Event

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

STAGES = "release-triptych-stages-0"


@pytest.fixture
def shared_memory() -> Iterator[Path]:
    """The pod's own."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder) / "triptych"


def test_a_pod_that_is_told_to_end_finishes_what_it_draws(
    tmp_path: Path, shared_memory: Path
) -> None:
    values = f"model.source={MODEL},model.dtype=float32,drainSeconds=10"
    network = some_network()
    pods = RunningPods(
        rendered("--set", values), tmp_path, network, {"/dev/shm/triptych": str(shared_memory)}
    )
    (gateway,) = (each for each in pods.pods.values() if each.name.endswith("-gateway"))

    def end(event: Event) -> None:
        if isinstance(event, StepCompleted) and event.step == 2:
            pods.terminate(STAGES)

    try:
        pods.start()
        wait_serving(f"{gateway.address}:7843", 200)
        with Client(f"{gateway.address}:7843", timeout=60) as client:
            drawn = client.generate("two red hearts", steps=20, seed=5, on_event=end)
            assert drawn.width == 128
    finally:
        pods.close()
