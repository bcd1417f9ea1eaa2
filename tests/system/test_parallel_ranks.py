"""A denoiser with four ranks draws what one with one rank draws."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tests.system.running_cluster import RunningCluster, running_cluster
from triptych import CacheDit, Generation, NoCache
from triptych.parallel import ParallelDegrees

# Two clusters, one of four ranks, are started before the first.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[RunningCluster]:
    with running_cluster("--topology", "split", "--cfg", "2", "--ring", "2") as cluster:
        yield cluster


def drawn(cluster: RunningCluster, scale: float, cache: NoCache | CacheDit) -> Generation:
    with cluster.client() as client:
        return client.generate("two red hearts", steps=6, seed=7, guidance_scale=scale, cache=cache)


def levels(generation: Generation) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(generation.data)), dtype=np.int16)


@pytest.mark.parametrize(
    ("scale", "cache", "degrees"),
    [
        (4.0, CacheDit(max_warmup_steps=2), ParallelDegrees(cfg=2, ring=2)),
        # With one branch, all four ranks share its sequence.
        (1.0, NoCache(), ParallelDegrees(ring=4)),
    ],
)
def test_four_ranks_draw_what_one_draws(
    four_ranks: RunningCluster,
    split_cluster: RunningCluster,
    scale: float,
    cache: NoCache | CacheDit,
    degrees: ParallelDegrees,
) -> None:
    many, one = drawn(four_ranks, scale, cache), drawn(split_cluster, scale, cache)
    assert many.parallel_degrees == degrees
    assert one.parallel_degrees == ParallelDegrees()
    # Rounding may tip a level over.
    assert np.abs(levels(many) - levels(one)).max() <= 1
    if many.cache_statistics is not None:
        assert one.cache_statistics is not None
        assert many.cache_statistics.branches == one.cache_statistics.branches
