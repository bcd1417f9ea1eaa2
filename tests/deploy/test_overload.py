"""What a real Prometheus makes of a real cluster that has more to do than it can."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import Any

import pytest

from services.observability.metrics import METRICS, Histogram
from tests.deploy.prometheus import DASHBOARD, RULES, Prometheus, running_prometheus
from tests.system.running_cluster import RunningCluster, running_cluster, until
from triptych import CacheDit, Client, InvalidRequestError, ResourceExhaustedError

pytestmark = pytest.mark.deploy
_URL = re.compile(r"^metrics +http://(\S+)/metrics of the (\S+)$", re.MULTILINE)
_NAME = re.compile(r"\btriptych_[a-z0-9_]+")
QUEUE = 4
# Seconds a step at this size, so that a few requests are minutes of work for the one denoiser.
LARGE = {"width": 512, "height": 512, "steps": 200}


def panels() -> list[dict[str, Any]]:
    return [each for each in json.loads(DASHBOARD.read_text())["panels"] if each["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    limits = {
        "TRIPTYCH_DENOISER_MAX_QUEUED_REQUESTS": str(QUEUE),
        "TRIPTYCH_DENOISER_MAX_RESIDENT_REQUESTS": "1",
        "TRIPTYCH_DENOISER_MAX_RESIDENT_BYTES": "1GiB",
    }
    told = ("--topology", "split", "--metrics", "127.0.0.1:0")
    with running_cluster(*told, environment=limits) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(
    cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Over a cluster that has done a little of everything."""
    with cluster.client() as client:
        cache = CacheDit(max_warmup_steps=4, residual_diff_threshold=0.5)
        client.generate("a red circle", steps=20, cache=cache)
        list(client.stream("a red circle", steps=60, preview_every_steps=1))
        with pytest.raises(InvalidRequestError):
            client.generate("€" * 400, steps=2)
    targets = [address for address, _ in _URL.findall(cluster.output)]
    assert len(targets) == 4
    with running_prometheus(targets, tmp_path_factory.mktemp("prometheus")) as running:
        yield running


@pytest.fixture(scope="module")
def overloaded(cluster: RunningCluster, prometheus: Prometheus) -> Iterator[Prometheus]:
    """While one request is denoised and as many wait as may."""
    assert until(lambda: len(prometheus.query("up == 1")) == 4)
    assert prometheus.firing() == {}
    over = Event()

    def ask(seed: int) -> None:
        with Client(cluster.target, timeout=600) as client:
            for _ in client.stream("a red circle", seed=seed, **LARGE):
                if over.is_set():
                    return

    with ThreadPoolExecutor(QUEUE + 1) as callers, ExitStack() as exits:
        exits.callback(cluster.kill, "denoiser")
        exits.callback(over.set)
        asked = [callers.submit(ask, seed) for seed in range(QUEUE + 1)]
        waiting = f'triptych_queued_requests{{stage="denoiser"}} == {QUEUE}'
        assert until(lambda: bool(prometheus.query(waiting)), 60), [
            each.exception() for each in asked if each.done()
        ]
        yield prometheus


def refuse_one(cluster: RunningCluster) -> None:
    """One more than may wait."""
    with cluster.client() as client, pytest.raises(ResourceExhaustedError):
        client.generate("a red circle", **LARGE)


def test_an_overloaded_cluster_fires_the_alerts_of_overload_and_no_others(
    cluster: RunningCluster, overloaded: Prometheus
) -> None:
    expected = {"TriptychBacklogLong", "TriptychQueueAlmostFull", "TriptychRefusing"}

    def refused_and_all_fire() -> bool:
        refuse_one(cluster)
        return expected <= overloaded.firing().keys()

    assert until(refused_and_all_fire, 60), overloaded.firing()
    firing = overloaded.firing()
    # Those who were refused are failures, too.
    assert firing.keys() <= expected | {"TriptychFailures"}
    assert "triptych-demo are" in firing["TriptychBacklogLong"]["annotations"]["summary"]
    assert firing["TriptychQueueAlmostFull"]["annotations"]["summary"] == (
        "The denoiser's queue for triptych-demo is 100% full."
    )
    assert float(firing["TriptychBacklogLong"]["value"]) > 120


@pytest.mark.parametrize("panel", panels(), ids=lambda each: each["title"])
def test_every_panel_of_the_dashboard_has_something_to_show(
    panel: dict[str, Any], cluster: RunningCluster, overloaded: Prometheus
) -> None:
    def shown(query: str) -> bool:
        # A share of failures needs some that were not there when Prometheus first looked.
        refuse_one(cluster)
        return bool(overloaded.query(query))

    for target in panel["targets"]:
        asked = target["expr"].replace("$__rate_interval", "1m")
        asked = asked.replace("$namespace", ".*").replace("$model", ".*")
        assert "$" not in asked
        assert until(lambda: shown(asked)), asked  # noqa: B023 - asked at once


def test_dashboard_and_rules_know_no_metric_that_nobody_exposes() -> None:
    declared = {each.exposed_name for each in METRICS}
    for each in METRICS:
        if isinstance(each, Histogram):
            declared |= {f"{each.exposed_name}_{part}" for part in ("bucket", "sum", "count")}
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    for text in (RULES.read_text(), "\n".join(queries())):
        rest = text
        for name in recorded:
            rest = rest.replace(name, "")
        assert set(_NAME.findall(rest)) <= declared


def test_the_dashboard_shows_every_metric_directly_or_by_a_rule() -> None:
    rules = RULES.read_text()
    shown = "\n".join(queries())
    for each in METRICS:
        assert each.exposed_name in shown or each.exposed_name in rules, each.exposed_name


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 41
    everything = dashboard["panels"]
    assert len({each["id"] for each in everything}) == len(everything)
    places = [tuple(each["gridPos"][side] for side in "xywh") for each in everything]
    for place, (x, y, width, height) in enumerate(places):
        assert x + width <= 24
        for other_x, other_y, other_width, other_height in places[:place]:
            beside = x >= other_x + other_width or other_x >= x + width
            assert beside or y >= other_y + other_height or other_y >= y + height
