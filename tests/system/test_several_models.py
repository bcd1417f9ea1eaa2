"""Several models behind one gateway, routed by name."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.checkpoints import checkpoint
from tests.system.running_cluster import RunningCluster, running_cluster
from triptych import ModelNotFoundError

REQUESTS = [
    {"model": "triptych-demo", "width": 128, "height": 128, "seed": 1},
    {"model": "qwen-image-2512", "width": 64, "height": 96, "seed": 2},
    {"model": "triptych-demo", "width": 64, "height": 64, "seed": 3},
    {"model": "qwen-image-2512", "width": 64, "height": 64, "seed": 4},
]


@pytest.fixture(scope="module", params=["split", "fused"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningCluster]:
    other = checkpoint("qwen-image-2512", tmp_path_factory.mktemp("models"))
    with running_cluster("--model", str(other), "--topology", request.param) as running:
        yield running


def drawn(cluster: RunningCluster, asked: dict[str, object]) -> bytes:
    with cluster.client() as client:
        return client.generate("a red circle", steps=8, **asked).data


def test_requests_of_different_models_at_once_get_the_bits_they_would_get_alone(
    cluster: RunningCluster,
) -> None:
    alone = [drawn(cluster, asked) for asked in REQUESTS]
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        together = list(pool.map(lambda asked: drawn(cluster, asked), REQUESTS))

    assert together == alone
    assert len(set(alone)) == len(alone)


def test_every_model_is_listed_and_must_be_named(cluster: RunningCluster) -> None:
    with cluster.client() as client:
        assert {each.name for each in client.models()} == {"triptych-demo", "qwen-image-2512"}
        with pytest.raises(ModelNotFoundError, match=r"is missing.*qwen-image-2512"):
            client.generate("a red circle")
