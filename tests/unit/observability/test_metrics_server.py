import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge

from services.observability.metrics_server import MAX_CONNECTIONS, MetricsServer


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    registry = CollectorRegistry()
    Gauge("answer", "Of all questions.", registry=registry).set(42)
    server = MetricsServer("127.0.0.1", 0, registry)
    yield server
    server.close()


def _read(server: MetricsServer) -> str:
    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def test_metrics_are_read(server: MetricsServer) -> None:
    assert "answer 42.0" in _read(server)


def test_connections_that_say_nothing_hold_few_threads_and_nobody_up(server: MetricsServer) -> None:
    before = threading.active_count()
    with ExitStack() as exits:
        silent = [
            exits.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(4 * MAX_CONNECTIONS)
        ]
        assert "answer 42.0" in _read(server)
        # The first of them was let go of: it reads the end.
        silent[0].settimeout(20)
        assert silent[0].recv(1) == b""
        # Those that were let go of may still be ending.
        for each in silent[: 3 * MAX_CONNECTIONS]:
            each.settimeout(20)
            assert each.recv(1) == b""
        assert threading.active_count() - before <= MAX_CONNECTIONS + 1
