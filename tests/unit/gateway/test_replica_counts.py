"""How many replicas a gateway says that it can give requests to."""

from collections.abc import Mapping

from services.gateway.replicas import ReplicaPools
from tests.unit.domain.examples import capacity
from tests.unit.gateway.scripted_stages import ScriptedDenoiser, ScriptedEncoder, ScriptedVae
from triptych.domain.model import Stage


async def nothing(serving: bool) -> None:
    """Nobody asks."""


def counted(pools: ReplicaPools) -> Mapping[tuple[str, str], float]:
    return {(labels["stage"], labels["model"]): value for value, labels in pools.ready()}


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
    assert counted(pools) == {**whole, ("denoiser", "painter"): 0}
