import itertools
import re
from typing import Any

import pytest

from services.observability.metrics import (
    BYTES,
    FORWARDS,
    METRICS,
    RATIO,
    SECONDS,
    Histogram,
    Metric,
)
from tools.generate_metrics_table import PAGE, table, written

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda each: each.exposed_name)


@every_metric
def test_a_name_says_whose_the_metric_is_and_its_unit_and_kind(metric: Metric) -> None:
    name = metric.exposed_name
    assert re.fullmatch(r"triptych(_[a-z]+)+", name)
    assert (metric.kind == "counter") == name.endswith("_total")
    stem = name.removesuffix("_total")
    # Base units alone, and in the name.
    suffixes = {SECONDS: "_seconds", BYTES: "_bytes", RATIO: "_ratio"}
    assert metric.unit in suffixes or re.fullmatch(r"\{[a-z]+\}", metric.unit)
    for unit, suffix in suffixes.items():
        assert stem.endswith(suffix) == (metric.unit == unit)


@every_metric
def test_labels_are_few_and_none_is_personal_or_without_bound(metric: Metric) -> None:
    assert len(metric.labels) <= 5
    assert len(set(metric.labels)) == len(metric.labels)
    known = {"stage", "task", "model", "outcome", "reason", "direction", "method", "branch"}
    assert set(metric.labels) <= known | {"decision", "store", "bound", "part", "state"}


@every_metric
def test_a_description_is_a_sentence(metric: Metric) -> None:
    assert metric.description.endswith(".")
    assert "|" not in metric.description


def test_no_two_metrics_share_a_name() -> None:
    names = [each.exposed_name for each in METRICS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "metric",
    [each for each in METRICS if isinstance(each, Histogram)],
    ids=lambda each: each.exposed_name,
)
def test_buckets_are_in_order_and_not_too_many(metric: Histogram) -> None:
    assert all(low < high for low, high in itertools.pairwise(metric.bounds))
    assert len(metric.bounds) <= 20
    if metric.unit == RATIO:
        assert (metric.bounds[0], metric.bounds[-1]) == (0, 0.9)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"model": "m", "method": "none", "branch": "cond"},
        {"model": "m", "method": "none", "branch": "cond", "decision": "reused", "prompt": "x"},
    ],
)
def test_a_value_with_other_labels_than_declared_is_refused(labels: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"triptych\.denoiser\.forwards has labels"):
        FORWARDS.add(1, **labels)


def test_the_documented_table_says_what_is_declared() -> None:
    page = PAGE.read_text()
    assert table() in page
    assert written(page) == page
