from collections.abc import Callable

import pytest
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

Point = tuple[str, frozenset[tuple[str, str]]]
Read = Callable[[], dict[Point, float]]


@pytest.fixture(scope="session")
def read_all() -> Read:
    """Reads every value recorded in this process; of histograms, how many there were."""
    reader = InMemoryMetricReader()
    # Can be set once in a process.
    set_meter_provider(MeterProvider([reader]))

    def read() -> dict[Point, float]:
        data = reader.get_metrics_data()
        if data is None:
            return {}
        return {
            (metric.name, frozenset((point.attributes or {}).items())): (
                point.count if isinstance(point, HistogramDataPoint) else point.value
            )
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    return read


@pytest.fixture
def recorded(read_all: Read) -> Callable[[str], dict[frozenset[tuple[str, str]], float]]:
    """What a metric grew by since the test began, by labels; of gauges, what they are."""
    before = read_all()

    def grown(name: str) -> dict[frozenset[tuple[str, str]], float]:
        now = read_all()
        return {
            labels: value - before.get((each, labels), 0)
            for (each, labels), value in now.items()
            if each == name and value != before.get((each, labels), 0)
        }

    return grown
