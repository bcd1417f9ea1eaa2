"""Hands a process's metrics to those who watch: Prometheus reads them, a collector is sent them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from services.domain.errors import ConfigurationError
from services.observability.logs import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

# What the last values may take to reach a collector; one that is down must not hold up an end.
_LAST_WORDS_MILLISECONDS: Final = 2000

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
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    with ExitStack() as exits:
        readers = []
        if listen is not None:
            readers.append(exits.enter_context(_served(listen)))
        if otlp_endpoint is not None:
            readers.append(_pushing(otlp_endpoint))
        resource = Resource.create({SERVICE_NAME: f"triptych-{process}"})
        provider = MeterProvider(readers, resource, shutdown_on_exit=False)
        set_meter_provider(provider)
        try:
            yield
        finally:
            provider.shutdown(_LAST_WORDS_MILLISECONDS)


@contextmanager
def _served(listen: str) -> Iterator["MetricReader"]:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()
    # Memory, processor time and open files, under the names that all exporters use.
    ProcessCollector(registry=registry)
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"metrics_listen: cannot listen on {listen}: {error}; another process may use it, or"
            " it is not host:port"
        ) from error
    _log.info("metrics", address=f"http://{host}:{server.server_port}/metrics")
    try:
        yield reader
    finally:
        server.shutdown()
        server.server_close()


def _pushing(endpoint: str) -> "MetricReader":
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter = OTLPMetricExporter(endpoint)
    return PeriodicExportingMetricReader(exporter)
