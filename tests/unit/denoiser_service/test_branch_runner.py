from functools import partial

import torch

from denoiser_service.rank.parallel.branches import SpreadBranches
from denoiser_service.rank.parallel.mesh import Axis
from services.model_ports.forwards import IN_TURN


def test_a_rank_that_is_alone_runs_every_branch_in_its_order() -> None:
    branches = {name: partial(torch.full, (2,), value) for name, value in (("a", 1.0), ("b", 2.0))}
    alone = SpreadBranches(Axis((0,), 0, None), torch.device("cpu"))
    for runner in (alone, IN_TURN):
        assert [each.tolist() for each in runner.run(branches)] == [[1.0, 1.0], [2.0, 2.0]]


def test_branches_share_a_forward_only_in_one_process() -> None:
    assert IN_TURN.share_forwards
    assert not SpreadBranches(Axis((0,), 0, None), torch.device("cpu")).share_forwards
