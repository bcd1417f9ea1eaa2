"""What a request's cache did, as its client is told."""

import statistics

import pytest

from tests.system.running_cluster import RunningCluster
from triptych import CacheDit, Event, StepCompleted


def test_a_result_tells_what_its_cache_did_and_gained(
    split_cluster: RunningCluster,
) -> None:
    happened: list[Event] = []
    # After the warm-up this threshold always reuses: two in three, as far as the limit goes.
    cache = CacheDit(max_warmup_steps=4, residual_diff_threshold=0.5, max_continuous_cached_steps=2)
    with split_cluster.client() as client:
        drawn = client.generate("a blue ring", steps=16, cache=cache, on_event=happened.append)

    steps = [each for each in happened if isinstance(each, StepCompleted)]
    assert [[each.branch for each in step.decisions] for step in steps] == [["cond", "uncond"]] * 16
    assert steps[4].decisions[0].signal is not None
    assert drawn.parameters.cache == CacheDit(
        fn_compute_blocks=1,
        bn_compute_blocks=0,
        max_warmup_steps=4,
        warmup_interval=1,
        max_cached_steps=-1,
        max_continuous_cached_steps=2,
        residual_diff_threshold=0.5,
    )
    did = drawn.cache_statistics
    assert did is not None
    for position, branch in enumerate(did.branches):
        reused = [step.decisions[position].reused for step in steps]
        assert (branch.reused_forwards, branch.computed_forwards) == (sum(reused), 16 - sum(reused))
    assert did.reused_share == 0.5
    # One of the demo model's twelve blocks is always computed.
    assert did.estimated_speedup == pytest.approx(1 / (1 - 0.5 * 11 / 12))
    whole = [step.seconds for step in steps if not any(each.reused for each in step.decisions)]
    total = sum(step.seconds for step in steps)
    assert did.realised_speedup == pytest.approx(statistics.median(whole) * 16 / total, rel=1e-6)


def test_a_request_without_a_cache_has_no_statistics(split_cluster: RunningCluster) -> None:
    with split_cluster.client() as client:
        assert client.generate("a blue ring", steps=2).cache_statistics is None
