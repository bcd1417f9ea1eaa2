"""A sample of `make fuzz` over a real cluster, the same every time."""

from tests.fuzz.campaign import run
from tests.fuzz.targets import cluster_targets
from tests.system.running_cluster import RunningCluster

SAMPLE = 50


def test_whatever_is_sent_is_answered_as_documented_and_leaves_nothing(
    split_cluster: RunningCluster,
) -> None:
    with cluster_targets(split_cluster) as targets:
        for each in targets:
            outcome = run(each, SAMPLE, number=1)
            assert outcome.counts.total() == SAMPLE
    assert split_cluster.stored_tensors() == []
