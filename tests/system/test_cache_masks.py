"""Cache-DiT's masks, as a client sees them."""

import pytest

from tests.system.running_cluster import RunningCluster
from tests.unit.denoiser_service.test_steps_mask import MASKS
from triptych import CacheDit, Event, StepCompleted


@pytest.mark.parametrize(("steps", "policy"), [each for each in MASKS if each[0] >= 20])
def test_a_static_mask_decides_which_steps_are_reused(
    split_cluster: RunningCluster, steps: int, policy: str
) -> None:
    happened: list[Event] = []
    cache = CacheDit(scm_mask_policy=policy, scm_policy="static")
    with split_cluster.client() as client:
        client.generate(
            "a ring", steps=steps, width=32, height=32, cache=cache, on_event=happened.append
        )
    done = [each for each in happened if isinstance(each, StepCompleted)]
    for branch in (0, 1):
        computed = ["01"[not step.decisions[branch].reused] for step in done]
        assert "".join(computed) == MASKS[steps, policy].replace(" ", "")
