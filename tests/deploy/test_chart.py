"""The chart against Kubernetes' own schemas, and against what the processes can be told."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.observability.metrics import METRICS
from services.rpc.health import LIVE
from tests.deploy.environment import known_variables
from tests.deploy.helm import CHART, EXAMPLES, containers, helm, pod_templates, rendered

pytestmark = pytest.mark.deploy
OPERATORS = ("ServiceMonitor", "PrometheusRule", "ScaledObject", "LeaderWorkerSet")
VERSIONS = ("1.27", "1.32", "1.37")
REDIS = ("--set", "topology=disaggregated,store.redis.host=redis")
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.stem)


def flags(example: Path) -> tuple[str, str]:
    return ("--values", str(example))


@each_example
def test_every_example_is_lint_free(example: Path) -> None:
    linted = helm("lint", "--strict", str(CHART), *flags(example))
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("version", VERSIONS)
@each_example
def test_every_manifest_holds_against_the_strict_schema(
    example: Path, version: str, tmp_path: Path
) -> None:
    everything = rendered(*flags(example))
    # The operators' own kinds are in none of Kubernetes' schemas.
    manifests = [each for each in everything if each["kind"] not in OPERATORS]
    assert len(manifests) > 5
    groups = [each for each in everything if each["kind"] == "LeaderWorkerSet"]
    manifests += [
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": each}
        for each in pod_templates(groups)
    ]
    for number, each in enumerate(manifests):
        (tmp_path / f"{number}.json").write_text(json.dumps(each))
    checked = subprocess.run(
        ["kubernetes-validate", "--strict", "-k", version, *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "Couldn't find" not in checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("topology=scattered", "topology"),
        ("topology=disaggregated", "needs store.redis.host: pods cannot share memory"),
        ("store.redis.host=redis", "colocated keeps tensors in each pod's memory"),
        ("denoiser.replicas=2", "denoiser.replicas has no effect in a colocated cluster"),
        ("denoiser.ulysses=2,denoiser.device=cuda:0", "2 ranks need a device without a number"),
        ("denoiser.ulysses=0", "ulysses"),
        ("denoiser.device=tpu", "device"),
        ("encoder.replica=2", "replica"),
        ("denoiser.nodes=2,denoiser.cfg=2", "which no other pod reaches: allowed is 1"),
        (
            "topology=disaggregated,store.redis.host=r,denoiser.nodes=3,denoiser.ulysses=4",
            "denoiser.nodes is 3; the 4 ranks (ulysses x ring x cfg) cannot be spread",
        ),
        (
            "topology=disaggregated,store.redis.host=r,denoiser.nodes=2,denoiser.ulysses=4"
            r",denoiser.resources.limits.nvidia\.com/gpu=1",
            "nvidia.com/gpu is 1; a pod has 2 ranks",
        ),
        ("topology=disaggregated,store.redis.host=127.0.0.1", "each pod reaches only itself"),
        ("model.dtype=int8", "dtype"),
        ("gateway.port=70000", "port"),
        ("telemetry.otlpEndpoint=collector:4317", "otlpEndpoint"),
        ("telemetry.traceRatio=2", "traceRatio"),
        ("denoiser.autoscaling.by=hpa", "no effect in a colocated cluster"),
        ("denoiser.autoscaling.by=vpa", "by"),
        (
            "topology=disaggregated,store.redis.host=r,denoiser.autoscaling.by=keda",
            "needs prometheusAddress",
        ),
        (
            "topology=disaggregated,store.redis.host=r,denoiser.autoscaling.by=hpa"
            ",denoiser.replicas=5",
            "maxReplicas is 4; denoiser.replicas, the least, is 5",
        ),
        ("model.manifest.secret=s,model.manifest.configMap=c", "exclude one another"),
        ("model.manifest.path=/model/SHA256SUMS", "a file of the volume model.existingClaim"),
        ("model.manifest.path=/tmp/m,model.existingClaim=c", "inside /model"),
        (
            "topology=disaggregated,store.redis.host=r,store.redis.username=u",
            "needs store.redis.existingSecret",
        ),
        (
            "topology=disaggregated,store.redis.host=r,store.redis.caSecret=c",
            "no effect without store.redis.tls",
        ),
        ("model.source=org/name", "model.cacheClaim is empty"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(values: str, message: str) -> None:
    made = helm("template", "release", str(CHART), "--set", values)
    assert made.returncode != 0
    assert message in made.stderr


def test_the_operator_and_the_sidecar_get_the_same_rules_and_dashboard_as_compose() -> None:
    told = ("--set", "metrics.rules.enabled=true,metrics.dashboard.enabled=true")
    found = {each["kind"]: each for each in rendered(*told) if "dashboard" in str(each)}
    (rules,) = (each for each in rendered(*told) if each["kind"] == "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    dashboard = json.loads(found["ConfigMap"]["data"]["triptych.json"])
    assert dashboard == json.loads((CHART / "files" / "dashboard.json").read_text())
    assert found["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"


@each_example
def test_every_variable_is_one_that_its_process_knows(example: Path) -> None:
    given = [
        variable["name"]
        for each in containers(rendered(*flags(example)))
        for variable in each.get("env", [])
        if variable["name"].startswith("TRIPTYCH_")
    ]
    assert given
    assert set(given) <= known_variables()


def test_every_process_of_the_chart_is_told_of_the_collector() -> None:
    told = rendered("--set", "telemetry.otlpEndpoint=http://collector:4317")
    variables = {
        each["name"]: each.get("value")
        for container in containers(told)
        for each in container.get("env", [])
    }
    for process in ("GATEWAY", "ENCODER", "DENOISER", "VAE"):
        assert variables[f"TRIPTYCH_{process}_OTLP_ENDPOINT"] == "http://collector:4317"
        assert variables[f"TRIPTYCH_{process}_TRACE_RATIO"] == "1"
    assert "OTLP" not in json.dumps(rendered())


@pytest.mark.parametrize(
    ("by", "kind"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")]
)
def test_an_autoscaler_has_the_denoisers_to_itself_and_the_gateway_knows_all_it_may_make(
    by: str, kind: str
) -> None:
    address = "denoiser.autoscaling.prometheusAddress=http://prometheus:9090"
    scaling = ("--set", f"denoiser.autoscaling.by={by},denoiser.replicas=2,{address}")
    manifests = rendered(*REDIS, *scaling)
    (scaler,) = (each for each in manifests if each["kind"] == kind)
    (scaled,) = (
        each
        for each in manifests
        if each["kind"] == "StatefulSet" and each["metadata"]["name"].endswith("-denoiser")
    )
    # Or each upgrade would undo what the autoscaler did.
    assert "replicas" not in scaled["spec"]
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (scaled["kind"], scaled["metadata"]["name"])
    assert 2 in scaler["spec"].values()
    assert 4 in scaler["spec"].values()
    assert len(json.loads(gateway_environment(*REDIS, *scaling)["TRIPTYCH_GATEWAY_DENOISER"])) == 4
    (metric,) = (each for each in METRICS if each.exposed_name in json.dumps(scaler))
    assert metric.kind == "gauge"


@pytest.mark.parametrize("where", ["configMap", "secret", "path"])
def test_every_stage_finds_the_models_manifest_where_it_is_told_to_look(where: str) -> None:
    values = f"model.existingClaim=models,model.manifest.{where}=/model/demo.sha256"
    manifests = rendered("--set", values)
    (pod,) = (
        each["spec"]["template"]["spec"] for each in manifests if each["kind"] == "StatefulSet"
    )
    volumes = {each["name"]: each for each in pod["volumes"]}
    for container in pod["containers"]:
        variable = f"TRIPTYCH_{container['name'].upper()}_MODEL_MANIFEST"
        (file,) = (Path(each["value"]) for each in container["env"] if each["name"] == variable)
        (mount,) = (
            each for each in container["volumeMounts"] if file.is_relative_to(each["mountPath"])
        )
        assert mount["readOnly"]
        kind = "persistentVolumeClaim" if where == "path" else where
        assert kind in volumes[mount["name"]]


@each_example
def test_what_computes_on_a_gpu_asks_for_one_and_may_run_where_they_are(example: Path) -> None:
    for template in pod_templates(rendered(*flags(example))):
        told = [
            (each, variable["value"])
            for each in template["spec"]["containers"]
            for variable in each.get("env", [])
            if variable["name"].endswith("_DEVICE") and variable["value"] != "cpu"
        ]
        for each, device in told:
            # The denoiser of a group computes nothing, and hands the device to its ranks.
            leads = any(given["name"].endswith("_RANK_LISTEN") for given in each["env"])
            assert leads or each["resources"]["limits"]["nvidia.com/gpu"], device
            assert "nvidia.com/gpu" in [each["key"] for each in template["spec"]["tolerations"]]


@each_example
def test_no_pod_is_killed_before_it_has_drained(example: Path) -> None:
    for template in pod_templates(rendered(*flags(example))):
        grace = template["spec"].get("terminationGracePeriodSeconds")
        for each in template["spec"]["containers"]:
            hook = each.get("lifecycle", {}).get("preStop", {}).get("exec", {"command": [""]})
            waits = sum(map(int, re.findall(r"sleep\((\d+)\)", hook["command"][-1])))
            drains = sum(
                int(variable["value"])
                for variable in each.get("env", [])
                if variable["name"].endswith("_DRAIN_SECONDS")
            )
            assert waits + drains == 0 or waits + drains < grace, each["name"]


def test_the_gateway_drains_once_its_service_has_had_time_to_forget_it() -> None:
    (gateway,) = (each for each in containers(rendered()) if each["name"] == "gateway")
    assert "time.sleep(5)" in str(gateway["lifecycle"]["preStop"])


def test_ranks_may_take_as_long_to_load_as_their_pod() -> None:
    (denoiser,) = (each for each in containers(rendered(*REDIS)) if each["name"] == "denoiser")
    variables = {each["name"]: each["value"] for each in denoiser["env"]}
    probe = denoiser["startupProbe"]
    patience = probe["periodSeconds"] * probe["failureThreshold"]
    assert float(variables["TRIPTYCH_DENOISER_RANK_START_SECONDS"]) == patience


@pytest.mark.parametrize(
    ("values", "variable", "file"),
    [
        ("model.tokenSecret=s", "HF_TOKEN_PATH", "token"),
        (
            "topology=disaggregated,store.redis.host=r,store.redis.tls=true,store.redis.caSecret=s",
            "_STORE",
            "ca.crt",
        ),
    ],
)
def test_every_stage_finds_a_secret_where_it_is_told_to_look(
    values: str, variable: str, file: str
) -> None:
    pods = [
        each["spec"]["template"]["spec"]
        for each in rendered("--set", values)
        if each["kind"] == "StatefulSet"
    ]
    for pod in pods:
        volumes = {each["name"]: each for each in pod["volumes"]}
        for container in pod["containers"]:
            (told,) = (
                each["value"] for each in container["env"] if each["name"].endswith(variable)
            )
            (mount,) = (
                each
                for each in container["volumeMounts"]
                if told.endswith(f"{each['mountPath']}/{file}")
            )
            assert mount["readOnly"]
            assert volumes[mount["name"]]["secret"]["secretName"] == "s"


def test_only_those_who_are_named_reach_the_door_and_the_metrics() -> None:
    named = ("networkPolicy.clients[0]", "networkPolicy.scrapers[0]")
    values = (f"{each}.podSelector.matchLabels.app={each.split('.')[1][:-3]}" for each in named)
    manifests = rendered(*(each for value in values for each in ("--set", value)))
    (test,) = (each for each in manifests if each["kind"] == "Pod")
    (gateway,) = (
        each["spec"]
        for each in manifests
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].endswith("-gateway")
    )
    door, metrics = gateway["ingress"]
    clients, tests = (each["podSelector"]["matchLabels"] for each in door["from"])
    assert clients == {"app": "clients"}
    assert tests.items() <= test["metadata"]["labels"].items()
    for each in manifests:
        if each["kind"] == "NetworkPolicy":
            assert each["spec"]["ingress"][-1]["from"] == metrics["from"]
    assert metrics["from"] == [{"podSelector": {"matchLabels": {"app": "scrapers"}}}]


def test_a_load_balancer_serves_the_gateway_and_not_its_metrics() -> None:
    services = [
        each
        for each in rendered("--set", "gateway.service.type=LoadBalancer")
        if each["kind"] == "Service"
    ]
    (outside,) = (each for each in services if each["spec"].get("type") == "LoadBalancer")
    assert [each["name"] for each in outside["spec"]["ports"]] == ["grpc"]
    inside = [each for each in services if each is not outside]
    # Each once, or it would be scraped twice.
    assert sorted(
        port["name"]
        for each in inside
        for port in each["spec"]["ports"]
        if port["name"].endswith("metrics")
    ) == ["denoiser-metrics", "encoder-metrics", "metrics", "vae-metrics"]


@each_example
def test_no_container_may_more_than_it_must(example: Path) -> None:
    for each in containers(rendered(*flags(example))):
        security = each["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert each["resources"]["limits"]["memory"]


@each_example
def test_selectors_choose_the_pods_they_mean(example: Path) -> None:
    manifests = rendered(*flags(example))
    # The pods of a group have the same.
    pods = {
        frozenset(each["metadata"]["labels"].items())
        for each in pod_templates(manifests)
        if each.get("kind") != "Pod"
    }
    for each in manifests:
        selector = each.get("spec", {}).get("selector")
        if each["kind"] in ("Service", "PodDisruptionBudget"):
            wanted = selector.get("matchLabels", selector)
            chosen = [pod for pod in pods if wanted.items() <= pod]
            assert len(chosen) == 1, each["metadata"]["name"]


def gateway_environment(*arguments: str) -> dict[str, str]:
    (gateway,) = (each for each in containers(rendered(*arguments)) if each["name"] == "gateway")
    return {each["name"]: each["value"] for each in gateway["env"]}


def test_the_gateway_is_told_every_replica_of_a_disaggregated_cluster() -> None:
    told = gateway_environment(*REDIS, "--set", "denoiser.replicas=3")
    assert json.loads(told["TRIPTYCH_GATEWAY_DENOISER"]) == [
        f"release-triptych-denoiser-{number}.release-triptych-denoiser:7852" for number in range(3)
    ]
    assert len(json.loads(told["TRIPTYCH_GATEWAY_ENCODER"])) == 1


def test_the_gateway_is_told_every_pod_of_a_colocated_cluster() -> None:
    told = gateway_environment("--set", "colocated.replicas=2")
    for stage, port in (("ENCODER", 7851), ("DENOISER", 7852), ("VAE", 7853)):
        assert json.loads(told[f"TRIPTYCH_GATEWAY_{stage}"]) == [
            f"release-triptych-stages-{number}.release-triptych-stages:{port}"
            for number in range(2)
        ]


def test_probes_of_grpc_have_numbers_for_ports() -> None:
    probes: list[Any] = [
        probe["grpc"]["port"]
        for each in containers(rendered(*REDIS))
        for name, probe in each.items()
        if name.endswith("Probe") and "grpc" in probe
    ]
    assert len(probes) == 11
    assert all(isinstance(each, int) for each in probes)


def test_what_is_restarted_is_what_does_not_answer_or_says_that_it_broke() -> None:
    probes = {
        each["name"]: each["livenessProbe"]
        for each in containers(rendered(*REDIS))
        if "livenessProbe" in each
    }
    assert set(probes) == {"gateway", "encoder", "denoiser", "vae"}
    assert all(probe["grpc"]["service"] == LIVE for probe in probes.values())


def test_values_fit_on_a_few_pages() -> None:
    assert len((CHART / "values.yaml").read_text().splitlines()) <= 250
