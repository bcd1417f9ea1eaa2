"""When health first says that the gateway serves."""

from services.gateway.replicas import ReplicaPools
from tests.unit.domain.examples import capacity
from tests.unit.gateway.scripted_stages import ScriptedDenoiser, ScriptedEncoder, ScriptedVae
from triptych.domain.model import Stage


class Watching:
    """Pools of two encoders, of which the second comes late, and what they said about serving."""

    def __init__(self, start_patience_seconds: float) -> None:
        self.said: list[bool] = []
        self.late = ScriptedEncoder()
        self.late.capacity_now = None
        self.pools = ReplicaPools(
            [ScriptedEncoder(), self.late],
            [ScriptedDenoiser()],
            [ScriptedVae()],
            poll_seconds=60,
            on_change=self._on_change,
            start_patience_seconds=start_patience_seconds,
        )

    async def _on_change(self, serving: bool) -> None:
        self.said.append(serving)


async def test_with_patience_every_replica_is_waited_for_once() -> None:
    watching = Watching(start_patience_seconds=600)
    await watching.pools.look()
    watching.late.capacity_now = capacity(Stage.ENCODER)
    await watching.pools.look()
    watching.late.capacity_now = capacity(Stage.ENCODER, "painter")
    await watching.pools.look()
    watching.late.capacity_now = None
    for _ in range(2):
        await watching.pools.look()
    assert watching.said == [False, True]


async def test_without_patience_one_replica_of_each_stage_is_enough() -> None:
    watching = Watching(start_patience_seconds=0)
    await watching.pools.look()
    assert watching.said == [True]
