"""A short form of benchmarks/faults.py: everything of a small cluster is hurt once."""

import tempfile
from pathlib import Path

import pytest

from tests.faults.campaign import Plan, campaign
from tests.faults.hurt_cluster import Studio
from tests.faults.orders import Painter
from tests.system.running_cluster import MODEL

PAINTER = Painter("text", "triptych-demo", steps=10, width=128)


@pytest.mark.timeout(300)
async def test_no_job_is_lost_doubled_or_wrong_whatever_is_killed_stopped_and_drained() -> None:
    plan = Plan(
        [Studio(PAINTER, MODEL, encoders=1, denoisers=(1, 1), vaes=1)],
        [*PAINTER.orders([1])],
        jobs=12,
        at_once=4,
        kills=7,
        drains=2,
        seed=1,
    )
    # Not in pytest's directory: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ft-") as folder:
        outcome = await campaign(plan, Path(folder))
    assert outcome.is_clean, outcome
    assert sum(outcome.blows.values()) == 9
