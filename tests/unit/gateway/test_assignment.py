"""Which replica a request goes to, after others were refused."""

from dataclasses import replace

import pytest

from services.gateway.access import ANYBODY, Quota, Tenant
from tests.unit.gateway.scripted_gateway import ScriptedGateway
from tests.unit.gateway.scripted_stages import ScriptedDenoiser
from triptych.domain.errors import InvalidRequest, QuotaExceeded, TriptychError
from triptych.domain.generation import GenerationRequest

GOOD, BAD = GenerationRequest(prompt="a red circle"), GenerationRequest(prompt="")
LIMITED = Tenant(name="limited", key_sha256=("0" * 64,), quota=Quota(pixel_steps_per_minute=0.001))


class Gateway(ScriptedGateway):
    """One with a busy denoiser and an idle one."""

    def __init__(self) -> None:
        self.idle = ScriptedDenoiser()
        super().__init__(GOOD, more=[self.idle])
        self.busy = self.cluster.denoiser
        assert self.busy.capacity_now is not None
        self.busy.capacity_now = replace(self.busy.capacity_now, running_requests=3)


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
    async with gateway.running():
        if tenant is LIMITED:
            # The first one overdraws the quota.
            await gateway.all_of(tenant=tenant)
        for _ in range(times):
            with pytest.raises(error):
                await gateway.all_of(request_, tenant=tenant)
        asked = len(gateway.idle.requests)
        await gateway.all_of()
    assert (len(gateway.busy.requests), len(gateway.idle.requests)) == (0, asked + 1)
