"""Which replica a request goes to, after others were refused."""

from contextlib import aclosing
from dataclasses import replace

import pytest

from services.gateway.access import ANYBODY, Quota, Tenant
from services.gateway.pipeline import Pipeline
from services.gateway.quotas import Quotas
from services.gateway.replicas import ReplicaPools
from tests.unit.domain.examples import REQUEST_ID
from tests.unit.gateway.kept_artifacts import results
from tests.unit.gateway.scripted_stages import ScriptedDenoiser, ScriptedEncoder, ScriptedVae
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest, QuotaExceeded, TriptychError
from triptych.domain.generation import GenerationRequest

GOOD, BAD = GenerationRequest(prompt="a red circle"), GenerationRequest(prompt="")
LIMITED = Tenant(name="limited", key_sha256=("0" * 64,), quota=Quota(pixel_steps_per_minute=0.001))


async def _ignore(serving: bool) -> None:
    pass


class Gateway:
    """A pipeline with a busy denoiser and an idle one."""

    def __init__(self) -> None:
        self.busy, self.idle = ScriptedDenoiser(), ScriptedDenoiser()
        assert self.busy.capacity_now is not None
        self.busy.capacity_now = replace(self.busy.capacity_now, running_requests=3)
        self.pools = ReplicaPools(
            [ScriptedEncoder()],
            [self.busy, self.idle],
            [ScriptedVae()],
            poll_seconds=60,
            on_change=_ignore,
        )
        self._pipeline = Pipeline(self.pools, Quotas(), results())

    async def generate(self, request: GenerationRequest, tenant: Tenant) -> None:
        """To the end, and until all is released."""
        events = self._pipeline.generate(
            request, tenant=tenant, job_id=REQUEST_ID, deadline=Deadline.after(60)
        )
        async with aclosing(events):
            async for _ in events:
                pass
        await self._pipeline.close()


@pytest.mark.parametrize(
    ("request_", "tenant", "error", "times"),
    # As often as would make the idle one look as busy as the other.
    [(BAD, ANYBODY, InvalidRequest, 5), (GOOD, LIMITED, QuotaExceeded, 4)],
    ids=["invalid", "over its quota"],
)
async def test_refused_requests_make_no_replica_look_busy(
    request_: GenerationRequest, tenant: Tenant, error: type[TriptychError], times: int
) -> None:
    gateway = Gateway()
    await gateway.pools.look()
    if tenant is LIMITED:
        # The first one overdraws the quota.
        await gateway.generate(GOOD, tenant)
    for _ in range(times):
        with pytest.raises(error):
            await gateway.generate(request_, tenant)
    asked = len(gateway.idle.requests)
    await gateway.generate(GOOD, ANYBODY)
    assert (len(gateway.busy.requests), len(gateway.idle.requests)) == (0, asked + 1)
