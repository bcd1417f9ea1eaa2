"""How many replicas a gateway says that it can give requests to."""

import asyncio
from collections.abc import Mapping

import pytest

from services.domain.stages import Capacity, Replica
from services.gateway import routing
from services.gateway.agreement import Pools, agreeing
from services.gateway.replicas import ReplicaPools
from services.gateway.watched import Watched
from tests.unit.domain.examples import capacity
from tests.unit.gateway.scripted_stages import ScriptedDenoiser, ScriptedEncoder, ScriptedVae
from triptych.domain.deadline import Deadline
from triptych.domain.errors import StageLoading
from triptych.domain.model import Stage


async def nothing(serving: bool) -> None:
    """Nobody asks."""


def counted(pools: ReplicaPools) -> Mapping[tuple[str, str], float]:
    return {(labels["stage"], labels["model"]): value for value, labels in pools.ready()}


class Clock:
    """Stands still unless a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_replicas_are_counted_and_a_model_that_was_lost_is_not_forgotten() -> None:
    denoisers = [ScriptedDenoiser(), ScriptedDenoiser()]
    pools = ReplicaPools(
        [ScriptedEncoder()], denoisers, [ScriptedVae()], poll_seconds=60, on_change=nothing
    )
    assert set(counted(pools)) == {(stage, "unknown") for stage in ("encoder", "denoiser", "vae")}
    assert set(counted(pools).values()) == {0}
    await pools.look()
    whole = {("encoder", "painter"): 1, ("denoiser", "painter"): 2, ("vae", "painter"): 1}
    assert counted(pools) == whole

    denoisers[0].capacity_now = None
    denoisers[1].capacity_now = capacity(Stage.DENOISER, "painter", draining=True)
    await pools.look()
    assert counted(pools) == {**whole, ("denoiser", "painter"): 1}, "one report may be late"
    await pools.look()
    assert counted(pools) == {**whole, ("denoiser", "painter"): 0}


async def test_replicas_are_compared_only_when_one_reports_something_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = (ScriptedEncoder(), ScriptedDenoiser(), ScriptedVae())
    pools = ReplicaPools([stages[0]], [stages[1]], [stages[2]], poll_seconds=60, on_change=nothing)
    compared = 0

    def comparing(name: str, pools: Pools[Watched[Replica]]) -> object:
        nonlocal compared
        compared += 1
        return agreeing(name, pools)

    monkeypatch.setattr(routing, "agreeing", comparing)
    await pools.look()
    assert compared > 0
    compared = 0
    for _ in range(3):
        await pools.look()
    assert compared == 0
    stages[1].capacity_now = capacity(Stage.DENOISER, "painter", draining=True)
    await pools.look()
    assert compared > 0


async def test_a_model_that_others_took_the_place_of_is_forgotten() -> None:
    stages = (ScriptedEncoder(), ScriptedDenoiser(), ScriptedVae())
    pools = ReplicaPools([stages[0]], [stages[1]], [stages[2]], poll_seconds=60, on_change=nothing)
    await pools.look()
    for stage, kind in zip(stages, Stage, strict=True):
        stage.capacity_now = capacity(kind, "sculptor")
    await pools.look()
    assert counted(pools) == {(stage, "sculptor"): 1 for stage in Stage}


async def test_a_model_that_nobody_has_reported_for_an_hour_is_forgotten() -> None:
    clock, stages = Clock(), (ScriptedEncoder(), ScriptedDenoiser(), ScriptedVae())
    pools = ReplicaPools(
        [stages[0]], [stages[1]], [stages[2]], poll_seconds=60, on_change=nothing, clock=clock
    )
    await pools.look()
    for stage in stages:
        stage.capacity_now = None
    clock.now += 3599
    for _ in range(2):
        await pools.look()
    assert counted(pools) == {(stage, "painter"): 0 for stage in Stage}
    clock.now += 1
    assert counted(pools) == {(stage, "unknown"): 0 for stage in Stage}


class Hanging(ScriptedVae):
    """Does not answer at all."""

    async def capacity(self, deadline: Deadline) -> Capacity:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_replica_that_hangs_makes_no_report_of_the_others_old() -> None:
    denoiser, serving = ScriptedDenoiser(), asyncio.Event()

    async def on_change(now: bool) -> None:
        if now:
            serving.set()

    denoiser.capacity_now = None
    pools = ReplicaPools(
        [ScriptedEncoder()],
        [denoiser],
        [ScriptedVae(), Hanging()],
        poll_seconds=0.001,
        on_change=on_change,
    )
    watching = asyncio.create_task(pools.watch())
    try:
        async with asyncio.timeout(10):
            denoiser.capacity_now = capacity(Stage.DENOISER, "painter")
            await serving.wait()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_gateway_that_serves_nothing_says_what_every_stage_lacks() -> None:
    stages = (ScriptedEncoder(), ScriptedDenoiser(), ScriptedVae())
    stages[1].capacity_now = capacity(Stage.DENOISER, loading=True)
    stages[2].capacity_now = None
    pools = ReplicaPools([stages[0]], [stages[1]], [stages[2]], poll_seconds=60, on_change=nothing)
    await pools.look()
    with pytest.raises(StageLoading) as caught:
        pools.check_serves()
    assert str(caught.value) == (
        "nothing is served yet: the denoiser of painter is loading its model; the vae of painter"
        " has not answered yet: it is starting, or is not reached"
    )
    stages[1].capacity_now = capacity(Stage.DENOISER, "painter")
    stages[2].capacity_now = capacity(Stage.VAE, "painter")
    await pools.look()
    pools.check_serves()
