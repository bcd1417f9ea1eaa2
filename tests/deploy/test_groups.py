"""A denoiser over several pods, as the chart describes it to a LeaderWorkerSet."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from denoiser_service.rank.process import RankSettings
from tests.deploy.helm import CHART, containers, rendered

pytestmark = pytest.mark.deploy
EXAMPLE = ("--values", str(CHART / "examples" / "multi-node-gpu.yaml"))
NAME = "release-triptych-denoiser-group"
GROUPS, PODS, RANKS = 2, 2, 16
PRIVATE_PORTS = (7900, 7901, 40000)
"""Where ranks connect, where they meet, and one of those that torch.distributed chooses."""


def group(*values: str) -> dict[str, Any]:
    (found,) = (each for each in rendered(*EXAMPLE, *values) if each["kind"] == "LeaderWorkerSet")
    return found


def pod_containers(template: str) -> dict[str, dict[str, Any]]:
    pod = group()["spec"]["leaderWorkerTemplate"][template]
    return {each["name"]: each for each in pod["spec"]["containers"]}


def variables(container: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def test_a_group_holds_against_the_published_fields() -> None:
    schema = json.loads(Path(__file__).with_name("leaderworkerset.json").read_text())
    # Collected where nobody has installed what checks deployments.
    import jsonschema

    jsonschema.validate(group(), schema)


def test_the_first_pod_leads_and_every_pod_has_its_share_of_the_ranks() -> None:
    assert group()["spec"]["replicas"] == GROUPS
    assert group()["spec"]["leaderWorkerTemplate"]["size"] == PODS
    leader, worker = pod_containers("leaderTemplate"), pod_containers("workerTemplate")
    assert (set(leader), set(worker)) == ({"denoiser", "ranks"}, {"ranks"})
    assert "nvidia.com/gpu" not in leader["denoiser"]["resources"]["limits"]
    for ranks in (leader["ranks"], worker["ranks"]):
        share = RANKS // PODS
        assert f"--nproc-per-node={share}" in ranks["args"]
        assert ranks["resources"]["limits"]["nvidia.com/gpu"] == share
    assert [
        each.partition("is_host=")[2].partition(",")[0]
        for pod in (leader, worker)
        for each in pod["ranks"]["args"]
        if "is_host=" in each
    ] == ["true", "false"]


def test_ranks_are_told_what_their_denoiser_is_told() -> None:
    leader, worker = pod_containers("leaderTemplate"), pod_containers("workerTemplate")
    assert variables(leader["ranks"]) == variables(worker["ranks"])
    denoiser, rank = variables(leader["denoiser"]), variables(leader["ranks"])
    shared = [
        (f"TRIPTYCH_DENOISER_{field}", f"TRIPTYCH_RANK_{field}")
        for field in map(str.upper, RankSettings.model_fields)
        if f"TRIPTYCH_DENOISER_{field}" in denoiser
    ]
    assert len(shared) >= 10
    assert [denoiser[theirs] for theirs, _ in shared] == [rank.get(own) for _, own in shared]
    port = denoiser["TRIPTYCH_DENOISER_RANK_LISTEN"].rpartition(":")[2]
    assert rank["TRIPTYCH_RANK_SUPERVISOR"] == f"$(LWS_LEADER_ADDRESS):{port}"


def test_one_pod_for_a_replica_can_become_several_and_one_again() -> None:
    # Helm takes over nothing that a controller made.
    one = r"denoiser.nodes=1,denoiser.resources.limits.nvidia\.com/gpu=16"
    single = rendered(*EXAMPLE, "--set", one)
    sets = {each["metadata"]["name"] for each in single if each["kind"] == "StatefulSet"}
    assert len(sets) == 3
    assert group()["metadata"]["name"] not in sets


def test_the_gateway_is_told_of_the_first_pod_of_each_group() -> None:
    (gateway,) = (each for each in containers(rendered(*EXAMPLE)) if each["name"] == "gateway")
    assert json.loads(variables(gateway)["TRIPTYCH_GATEWAY_DENOISER"]) == [
        f"{NAME}-{number}.{NAME}:7852" for number in range(GROUPS)
    ]
    # The controller takes the service of the set's name, if it is there, for its pods' domain.
    (service,) = (
        each
        for each in rendered(*EXAMPLE)
        if each["kind"] == "Service" and each["metadata"]["name"] == NAME
    )
    assert service["spec"]["clusterIP"] == "None"
    # Ranks look for one another before they are ready.
    assert service["spec"]["publishNotReadyAddresses"]


@pytest.mark.parametrize(
    ("by", "kind"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")]
)
def test_an_autoscaler_adds_whole_groups(by: str, kind: str) -> None:
    address = "denoiser.autoscaling.prometheusAddress=http://prometheus:9090"
    values = ("--set", f"denoiser.autoscaling.by={by},{address}")
    (scaler,) = (each for each in rendered(*EXAMPLE, *values) if each["kind"] == kind)
    scaled = group(*values)
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": scaled["apiVersion"],
        "kind": scaled["kind"],
        "name": scaled["metadata"]["name"],
    }
    assert "replicas" not in scaled["spec"]
    assert len(policies(*values)) == 4 + 2


def policies(*values: str) -> list[dict[str, Any]]:
    return [each for each in rendered(*EXAMPLE, *values) if each["kind"] == "NetworkPolicy"]


def labelled_pods() -> Iterator[dict[str, str]]:
    """Every pod's labels, with those that the controller adds."""
    for each in rendered(*EXAMPLE):
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield each["spec"]["template"]["metadata"]["labels"]
        if each["kind"] == "LeaderWorkerSet":
            for number in range(GROUPS):
                for template in ("leaderTemplate", "workerTemplate"):
                    labels = each["spec"]["leaderWorkerTemplate"][template]["metadata"]["labels"]
                    yield labels | {
                        "leaderworkerset.sigs.k8s.io/name": each["metadata"]["name"],
                        "leaderworkerset.sigs.k8s.io/group-index": str(number),
                    }


def chosen(selector: Mapping[str, Any], pod: Mapping[str, str]) -> bool:
    without = selector.get("matchExpressions", [])
    assert all(each["operator"] == "NotIn" for each in without)
    return selector["matchLabels"].items() <= pod.items() and not any(
        pod[each["key"]] in each["values"] for each in without
    )


def reaches(pod: Mapping[str, str], other: Mapping[str, str], port: int) -> bool:
    """Whether the policies let one pod connect to a port of another, as Kubernetes reads them."""
    binding = [each["spec"] for each in policies() if chosen(each["spec"]["podSelector"], other)]
    assert binding, "no policy: everybody reaches it"
    return any(
        ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        and ("from" not in rule or any(chosen(each["podSelector"], pod) for each in rule["from"]))
        for policy in binding
        for rule in policy["ingress"]
    )


def test_only_pods_of_the_same_group_reach_its_ranks() -> None:
    index = "leaderworkerset.sigs.k8s.io/group-index"
    pods = list(labelled_pods())
    ranks = [each for each in pods if index in each]
    assert len(ranks) == GROUPS * PODS
    for rank in ranks:
        for pod in pods:
            for port in PRIVATE_PORTS:
                assert reaches(pod, rank, port) == (pod.get(index) == rank[index])
        assert reaches(pods[0] | {"app.kubernetes.io/component": "gateway"}, rank, 7852)
