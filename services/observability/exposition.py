"""Lets Prometheus read a process's metrics over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.domain.errors import ConfigurationError
from services.observability.logs import get_logger

_log = get_logger(__name__)


@contextmanager
def exposed(process: str, listen: str) -> Iterator[None]:
    """Serves this process's metrics until the block is left. Once per process.

    Args:
        process: which one, for example "encoder".
        listen: host:port; port 0 for any that is free, which the log names.

    Raises:
        ConfigurationError: the address is taken or not an address.
    """
    # Here, for processes that expose nothing: they take a third of a second to import.
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.metrics import set_meter_provider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()
    # Memory, processor time and open files, under the names that all exporters use.
    ProcessCollector(registry=registry)
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    resource = Resource.create({SERVICE_NAME: f"triptych-{process}"})
    provider = MeterProvider([reader], resource)
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"metrics_listen: cannot listen on {listen}: {error}; another process may use it, or"
            " it is not host:port"
        ) from error
    set_meter_provider(provider)
    _log.info("metrics", address=f"http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        provider.shutdown()
