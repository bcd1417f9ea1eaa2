import asyncio
from pathlib import Path

import pytest

from services.gateway.app import GatewayApp
from services.jobs.opening import open_ledger
from tests.unit.gateway.running_gateway import Settings, running_gateway
from tests.unit.gateway.scripted_stages import ScriptedCluster
from tests.unit.jobs.benches import KEPT, submission
from tests.valkey_server import key_value_server
from triptych.domain.errors import ConfigurationError


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ((), "keeps nothing when it ends, since its appendonly is no; set appendonly yes"),
        (KEPT, "has appendfsync everysec and may lose the jobs it has just accepted"),
    ],
)
async def test_a_gateway_does_not_start_with_a_ledger_that_would_lose_jobs(
    tmp_path: Path, options: tuple[str, ...], refused: str
) -> None:
    with key_value_server(*options) as server:
        told = Settings(
            listen=f"unix:{tmp_path}/socket",
            jobs=server.url,
            artifacts=f"file://{tmp_path}/artifacts",
        )
        cluster = ScriptedCluster()
        app = GatewayApp(told, [cluster.encoder], [cluster.denoiser], [cluster.vae])
        with pytest.raises(ConfigurationError, match=f"^jobs: .*{refused}"):
            await asyncio.wait_for(app.run(), 20)
    assert not (tmp_path / "socket").exists(), "nobody is served meanwhile"


async def test_a_gateway_lets_go_the_jobs_that_are_no_longer_to_be_kept(tmp_path: Path) -> None:
    with key_value_server(*KEPT) as server:
        url = f"{server.url}?fsync=everysec"
        ledger = await open_ledger(url)
        try:
            record = (await ledger.submit(submission())).record
            await ledger.cancel(record.key, b"")
            sweeping = {"job_ttl_seconds": 0.001, "job_sweep_seconds": 0.01}
            kept = {"jobs": url, "artifacts": f"file://{tmp_path}/artifacts"}
            async with running_gateway(tmp_path, **kept, **sweeping), asyncio.timeout(20):
                while not (await ledger.usage()).tombstones:
                    pass
        finally:
            await ledger.close()
