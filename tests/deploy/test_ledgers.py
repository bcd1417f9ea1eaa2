"""The jobs' servers of the chart and of the compose file, with a real one in their place."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.jobs.ledger import JobLedger
from services.jobs.opening import open_ledger
from tests.deploy.helm import CHART, EXAMPLES, ROOT, containers, helm, rendered
from tests.deploy.pods import some_network
from tests.unit.jobs.benches import submission
from triptych.cluster.valkey import valkey_binary
from triptych.domain.errors import ConfigurationError

pytestmark = pytest.mark.deploy
KEPT = (
    *("--set", "jobs.keptIn=valkey,gateway.artifacts.url=file:///artifacts/store"),
    *("--set", "gateway.artifacts.existingClaim=artifacts"),
)
(GPU,) = (each for each in EXAMPLES if each.stem == "disaggregated-gpu")
CLIENT = shutil.which("valkey-cli") or shutil.which("redis-cli")
EXTERNAL = "jobs.keptIn=external,jobs.external.host=jobs,gateway.artifacts.url=s3://bucket"
PASSWORD = 'a "quoted" \\ $PASSWORD'


@asynccontextmanager
async def running(command: Sequence[str], url: str, folder: Path) -> AsyncIterator[JobLedger]:
    """A ledger in a server, which is killed afterwards."""
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        ledger = await open_ledger(url)
        try:
            yield ledger
        finally:
            await ledger.close()
    finally:
        server.kill()
        server.wait()


async def keeps_jobs(command: Sequence[str], url: str, folder: Path) -> None:
    """A gateway takes the server, and finds what it gave it once it was killed."""
    async with running(command, url, folder) as ledger:
        record = (await ledger.submit(submission(b"accepted"))).record
    async with running(command, url, folder) as ledger:
        assert await ledger.get(record.key) == record


class ChartLedger:
    """What the chart has its server and its gateways told, at an address of this machine.

    Args:
        folder: for what is mounted.
    """

    def __init__(self, folder: Path) -> None:
        made = {each["name"]: each for each in containers(rendered(*KEPT))}
        (folder / "data").mkdir()
        (folder / "password").write_text(f"{PASSWORD}\n")
        address = f"{some_network()}.1"
        self._here = {
            "valkey-server": str(valkey_binary()),
            "valkey-cli": f"{CLIENT} -h {address}",
            "--dir /data": f"--bind {address} --dir {folder}/data",
            "/run/ledger": str(folder),
            "release-triptych-ledger:": f"{address}:",
        }
        ledger, gateway = made["ledger"], made["gateway"]
        self.command = self._found((*ledger["command"], *ledger["args"]))
        self.probe = self._found(ledger["readinessProbe"]["exec"]["command"])
        (url,) = (
            each["value"] for each in gateway["env"] if each["name"] == "TRIPTYCH_GATEWAY_JOBS"
        )
        (self.url,) = self._found([url])

    def _found(self, words: Sequence[str]) -> list[str]:
        found = list(words)
        for name, here in self._here.items():
            found = [each.replace(name, here) for each in found]
        return found


@pytest.fixture
def ledger(tmp_path: Path) -> ChartLedger:
    return ChartLedger(tmp_path)


async def test_the_charts_server_keeps_what_gateways_accept_behind_its_password(
    ledger: ChartLedger, tmp_path: Path
) -> None:
    # What a list of processes shows.
    assert PASSWORD not in " ".join(ledger.command)
    await keeps_jobs(ledger.command, ledger.url, tmp_path)
    with pytest.raises(ConfigurationError, match=r"^jobs: .*refuses the user default"):
        async with running(ledger.command, ledger.url.partition("?")[0], tmp_path):
            pass


@pytest.mark.skipif(CLIENT is None, reason="needs valkey-cli or redis-cli")
async def test_the_charts_server_is_ready_once_it_answers_to_its_password(
    ledger: ChartLedger, tmp_path: Path
) -> None:
    assert await ended(ledger.probe) != 0
    async with running(ledger.command, ledger.url, tmp_path):
        assert await ended(ledger.probe) == 0
        (tmp_path / "password").write_text("another")
        assert await ended(ledger.probe) != 0


async def ended(command: Sequence[str]) -> int:
    process = await asyncio.create_subprocess_exec(*command)
    return await process.wait()


async def test_the_compose_files_server_keeps_what_gateways_accept(tmp_path: Path) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    ledger, gateway = services["ledger"], services["gateway"]
    address = f"{some_network()}.1"
    binary, *options = ledger["command"]
    assert binary == "valkey-server"
    volumes = {each.partition(":")[2] for each in ledger["volumes"]}
    assert options[options.index("--dir") + 1] in volumes
    options = [str(tmp_path) if each in volumes else each for each in options]
    command = [str(valkey_binary()), "--bind", address, *options]
    url = gateway["environment"]["TRIPTYCH_GATEWAY_JOBS"]
    await keeps_jobs(command, url.replace("ledger:", f"{address}:"), tmp_path)


def test_the_compose_files_gateway_waits_for_a_ledger_that_no_stage_uses() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services["gateway"]["depends_on"]["ledger"] == {"condition": "service_healthy"}
    stores = {
        services[f"{each}"]["environment"][f"TRIPTYCH_{each.upper()}_STORE"]
        for each in ("encoder", "denoiser", "vae")
    }
    assert services["gateway"]["environment"]["TRIPTYCH_GATEWAY_JOBS"] not in stores
    assert services["ledger"]["healthcheck"]["test"] == ["CMD", "valkey-cli", "-e", "ping"]


def pod_of(component: str, *values: str) -> dict[str, Any]:
    (found,) = (
        each
        for each in rendered(*values)
        if each["kind"] in ("StatefulSet", "Deployment")
        and each["metadata"]["name"].endswith(f"-{component}")
    )
    return found


def test_the_charts_jobs_are_on_a_volume_that_outlives_their_pod() -> None:
    made = pod_of("ledger", *KEPT, "--set", "jobs.valkey.size=20Gi,jobs.valkey.storageClass=fast")
    (claim,) = made["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "20Gi"}}
    assert claim["spec"]["storageClassName"] == "fast"
    assert made["spec"]["replicas"] == 1
    named = pod_of("ledger", *KEPT, "--set", "jobs.valkey.existingClaim=mine")
    assert "volumeClaimTemplates" not in named["spec"]
    volumes = named["spec"]["template"]["spec"]["volumes"]
    assert {"name": "jobs", "persistentVolumeClaim": {"claimName": "mine"}} in volumes
    (container,) = named["spec"]["template"]["spec"]["containers"]
    assert {"name": "jobs", "mountPath": "/data"} in container["volumeMounts"]


def test_gateways_and_their_ledger_have_the_password_from_one_secret() -> None:
    for values, name in (
        ((), "release-triptych-ledger"),
        (("--set", "jobs.valkey.existingSecret=mine"), "mine"),
    ):
        made = [each for each in rendered(*KEPT, *values) if each["kind"] == "Secret"]
        assert any(each["metadata"]["name"] == name for each in made) is (not values)
        for component in ("gateway", "ledger"):
            pod = pod_of(component, *KEPT, *values)["spec"]["template"]["spec"]
            (volume,) = (each for each in pod["volumes"] if each["name"] == "ledger")
            assert volume["secret"]["secretName"] == name
            (mount,) = (
                each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "ledger"
            )
            assert mount == {"name": "ledger", "mountPath": "/run/ledger", "readOnly": True}


def test_gateways_find_the_secrets_of_a_server_of_yours() -> None:
    example = ("--values", str(GPU))
    pod = pod_of("gateway", *example)["spec"]["template"]["spec"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    (container,) = pod["containers"]
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    (url,) = (each["value"] for each in container["env"] if each["name"] == "TRIPTYCH_GATEWAY_JOBS")
    assert url.startswith("rediss://jobs.data.svc:6380?fsync=always&username=triptych&")
    for option, secret in (("password_file", "triptych-jobs"), ("ca_file", "triptych-redis-ca")):
        file = Path(url.partition(f"{option}=")[2].partition("&")[0])
        assert volumes[mounts[str(file.parent)]]["secret"]["secretName"] == secret
    assert not [each for each in rendered(*example) if each["metadata"]["name"].endswith("ledger")]


def test_nobody_but_gateways_reaches_the_charts_ledger() -> None:
    policies = {
        each["metadata"]["name"].rpartition("-")[2]: each["spec"]
        for each in rendered(*KEPT)
        if each["kind"] == "NetworkPolicy"
    }
    ledger, stages = policies["ledger"], policies["stages"]
    (rule,) = ledger["ingress"]
    (source,) = rule["from"]
    labels = pod_of("gateway", *KEPT)["spec"]["template"]["metadata"]["labels"]
    assert source["podSelector"]["matchLabels"].items() <= labels.items()
    assert "gateway" in source["podSelector"]["matchLabels"].values()
    own = pod_of("ledger", *KEPT)["spec"]["template"]["metadata"]["labels"]
    assert ledger["podSelector"]["matchLabels"].items() <= own.items()
    # Or what may reach the stages might reach it as well.
    (apart,) = stages["podSelector"]["matchExpressions"]
    assert own[apart["key"]] in apart["values"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.stem)
def test_several_gateways_share_their_jobs_and_what_came_of_them(example: Path) -> None:
    gateway = pod_of("gateway", "--values", str(example))
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    kept = (variables["TRIPTYCH_GATEWAY_JOBS"], variables["TRIPTYCH_GATEWAY_ARTIFACTS"])
    assert gateway["spec"]["replicas"] == 1 or not any(each == "memory:" for each in kept)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            "gateway.replicas=2",
            "jobs.keptIn is memory, where each gateway knows its own jobs alone",
        ),
        ("jobs.keptIn=valkey", "gateway.artifacts.url is memory:, where what jobs drew ends"),
        ("jobs.keptIn=disk", "keptIn"),
        (f"{EXTERNAL},jobs.external.host=", "needs jobs.external.host"),
        ("jobs.external.host=jobs", "no effect with jobs.keptIn memory; set that to external"),
        (f"{EXTERNAL},jobs.external.host=localhost", "jobs.external.host is localhost, where"),
        (f"{EXTERNAL},jobs.external.username=u", "needs jobs.external.existingSecret"),
        (f"{EXTERNAL},jobs.external.caSecret=c", "no effect without jobs.external.tls"),
        (f"{EXTERNAL},jobs.external.fsync=no", "fsync"),
        (
            f"{EXTERNAL},topology=disaggregated,store.redis.host=jobs",
            "jobs.external and store.redis are one server, jobs; the one has to keep",
        ),
    ],
)
def test_a_ledger_that_cannot_work_is_refused_in_a_sentence(values: str, message: str) -> None:
    made = helm("template", "release", str(CHART), "--set", values)
    assert made.returncode != 0
    assert message in made.stderr
