"""What Prometheus reads from a running cluster."""

import re
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.observability.metrics import METRICS
from tests.processes import run
from tests.system.running_cluster import MODEL, RunningCluster, running_cluster, until
from triptych import CacheDit, CacheStatistics, InvalidRequestError, Preview

PROMPT = "a confidential circle"
_URL = re.compile(r"^metrics +(\S+) of the (\S+)$", re.MULTILINE)
CACHE = CacheDit(max_warmup_steps=4, residual_diff_threshold=0.5)


@pytest.fixture(scope="module")
def split_metrics() -> Iterator[RunningCluster]:
    limit = {"TRIPTYCH_DENOISER_MAX_RESIDENT_BYTES": "1GiB"}
    told = ("--topology", "split", "--metrics", "127.0.0.1:0")
    with running_cluster(*told, environment=limit) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def fused_metrics() -> Iterator[RunningCluster]:
    with running_cluster("--topology", "fused", "--metrics", "127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture(params=["split_metrics", "fused_metrics"])
def cluster(request: pytest.FixtureRequest) -> RunningCluster:
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, RunningCluster)
    return chosen


def cached_request(cluster: RunningCluster) -> CacheStatistics:
    with cluster.client() as client:
        did = client.generate(PROMPT, steps=10, cache=CACHE).cache_statistics
    assert did is not None
    assert did.reused_forwards > 0
    return did


def drawn_previews(cluster: RunningCluster) -> int:
    """Asks until one is drawn in time, as the loop waits for none; how many came."""
    drawn: list[Preview] = []

    def ask() -> bool:
        with cluster.client() as client:
            events = client.stream(PROMPT, steps=20, preview_every_steps=1)
            drawn.extend(each for each in events if isinstance(each, Preview))
        return bool(drawn)

    assert until(ask)
    return len(drawn)


class Scraped:
    """All values that a cluster's processes expose."""

    def __init__(self, cluster: RunningCluster) -> None:
        cluster.wait_serving()
        self.samples: list[tuple[str, Mapping[str, str], float]] = []
        self.families: dict[str, str] = {}
        for url, _ in _URL.findall(cluster.output):
            with urllib.request.urlopen(url, timeout=30) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                self.families[family.name] = family.type
                self.samples += [(each.name, each.labels, each.value) for each in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all processes and all other labels."""
        return sum(
            value
            for each, found, value in self.samples
            if each == name and labels.items() <= found.items()
        )


class Growth:
    """What values grew by since it was made."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._cluster = cluster
        self._before = Scraped(cluster)

    def end(self) -> None:
        self._after = Scraped(self._cluster)

    def __call__(self, name: str, **labels: str) -> float:
        full = f"triptych_{name}"
        return self._after.total(full, **labels) - self._before.total(full, **labels)


def test_a_cached_request_is_counted_by_every_stage(cluster: RunningCluster) -> None:
    grown = Growth(cluster)
    cached_request(cluster)
    grown.end()
    tasks = {
        "gateway": "generate",
        "encoder": "encode_prompt",
        "denoiser": "denoise",
        "vae": "decode",
    }
    for stage, task in tasks.items():
        labels = {"stage": stage, "task": task, "model": "triptych-demo"}
        assert grown("requests_started_total", **labels) == 1
        assert grown("requests_finished_total", **labels, outcome="succeeded", reason="OK") == 1
        assert grown("requests_finished_total", stage=stage) == 1
        assert grown("request_duration_seconds_count", **labels) == 1
        if stage != "gateway":
            for part in ("queue", "run", "transfer"):
                assert grown(f"{part}_duration_seconds_count", **labels) == 1
            assert grown("run_duration_seconds_sum", **labels) > 0
            assert grown("transferred_bytes_total", **labels) > 0
    scraped = Scraped(cluster)
    for stage in ("encoder", "denoiser", "vae"):
        for gauge in ("queued", "resident"):
            assert scraped.total(f"triptych_{gauge}_requests", stage=stage) == 0


def test_steps_and_forwards_are_counted_by_what_the_cache_did(cluster: RunningCluster) -> None:
    grown = Growth(cluster)
    did = cached_request(cluster)
    grown.end()
    labels = {"model": "triptych-demo", "method": "cache_dit"}
    assert grown("denoiser_step_duration_seconds_count", **labels) == 10
    assert grown("denoiser_step_duration_seconds_count", **labels, decision="computed") >= 4
    for branch in did.branches:
        counted = {**labels, "branch": branch.branch}
        computed = grown("denoiser_forwards_total", **counted, decision="computed")
        reused = grown("denoiser_forwards_total", **counted, decision="reused")
        assert (computed, reused) == (branch.computed_forwards, branch.reused_forwards)
    assert grown("denoiser_reused_ratio_count", **labels) == 1
    assert grown("denoiser_reused_ratio_sum", **labels) == pytest.approx(did.reused_share)


def test_failures_are_counted_under_their_reason_where_they_happened(
    cluster: RunningCluster,
) -> None:
    grown = Growth(cluster)
    with cluster.client() as client:
        with pytest.raises(InvalidRequestError, match="width"):
            client.generate(PROMPT, width=7)
        # Few enough characters for the gateway, and more tokens than the encoder reads.
        with pytest.raises(InvalidRequestError, match="tokens"):
            client.generate("€" * 400, steps=2)
    grown.end()
    ended = {"outcome": "failed", "reason": "INVALID_REQUEST"}
    for stage, model in (
        ("gateway", "unknown"),
        ("gateway", "triptych-demo"),
        ("encoder", "triptych-demo"),
    ):
        assert grown("requests_finished_total", stage=stage, model=model, **ended) == 1
    assert grown("requests_finished_total") == 3


def test_previews_are_counted_where_they_are_drawn(cluster: RunningCluster) -> None:
    grown = Growth(cluster)
    drawn = drawn_previews(cluster)
    grown.end()
    # One may be drawn just when the picture is done, and come too late.
    assert drawn <= grown("previews_drawn_total", model="triptych-demo")


def test_replicas_stores_and_limits_are_told(cluster: RunningCluster) -> None:
    scraped = Scraped(cluster)
    for stage in ("encoder", "denoiser", "vae"):
        labels = {"stage": stage, "model": "triptych-demo"}
        assert scraped.total("triptych_gateway_ready_replicas", **labels) == 1
        assert scraped.total("triptych_queue_limit_requests", **labels) > 0
    assert scraped.total("triptych_store_limit_bytes", bound="quota") > 0
    assert scraped.total("triptych_denoiser_backlog_seconds") == 0
    assert scraped.total("triptych_denoiser_held_bytes") == 0


def test_what_is_exposed_is_what_is_declared_and_says_nothing_of_prompts(
    split_metrics: RunningCluster,
) -> None:
    cached_request(split_metrics)
    drawn_previews(split_metrics)
    scraped = Scraped(split_metrics)
    ours = {name: kind for name, kind in scraped.families.items() if name.startswith("triptych_")}
    # The parser takes the ending of counters off.
    assert ours == {each.exposed_name.removesuffix("_total"): each.kind for each in METRICS}
    values = {value for _, labels, _ in scraped.samples for value in labels.values()}
    assert not [each for each in values if "circle" in each or "confidential" in each]


def test_what_is_started_again_is_counted_and_read_where_it_was(
    split_metrics: RunningCluster,
) -> None:
    cluster, grown = split_metrics, Growth(split_metrics)
    with cluster.healing("rank"):
        cluster.kill("rank")
    grown.end()
    assert grown("ranks_restarts_total", model="triptych-demo") == 1
    assert Scraped(cluster).total("triptych_ranks_ready", model="triptych-demo") == 1
    with cluster.healing("gateway"):
        cluster.kill("gateway")
    cached_request(cluster)
    assert Scraped(cluster).total("triptych_requests_started_total", stage="gateway") == 1


def test_without_being_told_to_a_cluster_serves_no_metrics(split_cluster: RunningCluster) -> None:
    assert "metrics" not in split_cluster.output


def test_a_metrics_address_that_is_taken_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        stages = [f"--{stage}=unix:/nowhere" for stage in ("encoder", "denoiser", "vae")]
        ended = run(
            *("services.gateway", f"--listen=unix:{tmp_path}/socket"),
            *(*stages, f"--metrics-listen={address}", f"--cluster-secret-file={__file__}"),
        )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert f"gateway: metrics_listen: cannot listen on {address}" in last


def test_a_metrics_address_that_is_none_is_refused() -> None:
    ended = run("triptych", "up", "--model", MODEL, "--metrics", "nowhere")
    assert ended.returncode == 2
    assert "metrics: 'nowhere' is not an address" in ended.stderr
