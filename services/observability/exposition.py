"""Hands a process's metrics and spans to those who watch.

Prometheus reads the metrics; a collector is sent both.
"""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Final

from services.observability.logs import get_logger
from triptych.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource

# What the last values may take to reach a collector; one that is down must not hold up an end.
_LAST_WORDS_MILLISECONDS: Final = 2000
_MAX_EVENTS: Final = 1024

_log = get_logger(__name__)


@contextmanager
def exposed(process: str, *, listen: str | None, otlp_endpoint: str | None) -> Iterator[None]:
    """Exposes this process's metrics until the block is left. Once per process.

    Args:
        process: which one, for example "encoder".
        listen: host:port to serve Prometheus at; port 0 for any that is free, which the log names.
        otlp_endpoint: URL of a collector to push to, by OTLP over gRPC, every minute unless the
            SDK's own environment (OTEL_METRIC_EXPORT_INTERVAL) says otherwise.

    Raises:
        ConfigurationError: the address is taken or not an address.
    """
    if listen is None and otlp_endpoint is None:
        yield
        return
    # Here, for processes that expose nothing: they take a third of a second to import.
    from opentelemetry.metrics import set_meter_provider
    from opentelemetry.sdk.metrics import MeterProvider

    with ExitStack() as exits:
        readers = []
        if listen is not None:
            readers.append(exits.enter_context(_served(listen)))
        if otlp_endpoint is not None:
            readers.append(_pushing(otlp_endpoint))
        provider = MeterProvider(readers, _resource(process), shutdown_on_exit=False)
        set_meter_provider(provider)
        try:
            yield
        finally:
            provider.shutdown(_LAST_WORDS_MILLISECONDS)


@contextmanager
def traced(process: str, *, otlp_endpoint: str | None, ratio: float) -> Iterator[None]:
    """Sends this process's spans to a collector until the block is left. Once per process.

    A collector that is down or slow costs requests nothing: spans wait in a bounded queue, and are
    dropped when it is full.

    Args:
        process: which one, for example "encoder".
        otlp_endpoint: URL of the collector, for OTLP over gRPC; None to make no spans.
        ratio: share of the traces that begin here which are collected, 0 to 1; one that begins
            elsewhere is collected if it is there.
    """
    if otlp_endpoint is None:
        yield
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    from opentelemetry.trace import set_tracer_provider

    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(ratio),
        resource=_resource(process),
        shutdown_on_exit=False,
        # Every step is an event.
        span_limits=SpanLimits(max_events=_MAX_EVENTS),
    )
    exporter = OTLPSpanExporter(otlp_endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    set_tracer_provider(provider)
    try:
        yield
    finally:
        # Flushing itself knows no bound; an exporter that is shut down tries nothing again.
        bound = Timer(_LAST_WORDS_MILLISECONDS / 1000, exporter.shutdown)
        bound.start()
        provider.shutdown()
        bound.cancel()


def _resource(process: str) -> "Resource":
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource

    names = {SERVICE_NAME: f"triptych-{process}", SERVICE_INSTANCE_ID: uuid.uuid4().hex}
    return Resource.create(names)


@contextmanager
def _served(listen: str) -> Iterator["MetricReader"]:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, ProcessCollector

    from services.observability.metrics_server import MetricsServer

    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()
    # Memory, processor time and open files, under the names that all exporters use.
    ProcessCollector(registry=registry)
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    try:
        server = MetricsServer(host.strip("[]"), int(port), registry)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"metrics_listen: cannot listen on {listen}: {error}; another process may use it, or"
            " it is not host:port"
        ) from error
    _log.info("metrics", address=f"http://{host}:{server.port}/metrics")
    try:
        yield reader
    finally:
        server.close()


def _pushing(endpoint: str) -> "MetricReader":
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter = OTLPMetricExporter(endpoint)
    return PeriodicExportingMetricReader(exporter)
