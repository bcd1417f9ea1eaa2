"""What a gateway's process hands to those who watch; it needs no stages for that."""

import queue
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)

from triptych import Client, TriptychError

pytestmark = pytest.mark.slow


class Collector(MetricsServiceServicer):
    """An OTLP receiver."""

    def __init__(self) -> None:
        self.received: queue.Queue[ExportMetricsServiceRequest] = queue.Queue()

    def Export(  # noqa: N802 - gRPC's name
        self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> ExportMetricsServiceResponse:
        self.received.put(request)
        return ExportMetricsServiceResponse()


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    add_MetricsServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def command(listen: str, endpoint: str) -> list[str]:
    stages = [f"--{stage}=unix:/nowhere" for stage in ("encoder", "denoiser", "vae")]
    # Any file that is long enough is a secret.
    told = [f"--listen={listen}", f"--cluster-secret-file={__file__}", *stages]
    told.append(f"--otlp-endpoint={endpoint}")
    return [sys.executable, "-m", "services.gateway", *told]


def refused_once_and_ended(tmp_path: Path, endpoint: str) -> str:
    """Starts a gateway, asks it for a picture it cannot make, and ends it; returns its log."""
    listen = f"unix:{tmp_path}/socket"
    started = command(listen, endpoint)
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True) as process:
        try:
            with grpc.insecure_channel(listen) as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
            with Client(listen) as client, pytest.raises(TriptychError):
                client.generate("a confidential circle")
            process.terminate()
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, said
    return said


def test_a_collector_is_sent_the_metrics_before_the_process_ends(tmp_path: Path) -> None:
    with collecting() as (collector, endpoint):
        refused_once_and_ended(tmp_path, endpoint)
        sent = collector.received.get(timeout=10)
    (resource,) = sent.resource_metrics
    names = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert names["service.name"] == "triptych-gateway"
    points = {
        metric.name: metric.sum.data_points
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    (ended,) = points["triptych.requests.finished"]
    labels = {each.key: each.value.string_value for each in ended.attributes}
    assert (labels["stage"], labels["outcome"], ended.as_int) == ("gateway", "failed", 1)
    assert b"confidential" not in sent.SerializeToString()


def test_a_collector_that_is_down_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    began = time.monotonic()
    said = refused_once_and_ended(tmp_path, f"http://127.0.0.1:{port}")
    assert "Traceback" not in said
    assert time.monotonic() - began < 25


def test_an_endpoint_that_is_no_url_is_refused(tmp_path: Path) -> None:
    ended = subprocess.run(
        command(f"unix:{tmp_path}/socket", "collector:4317"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "otlp_endpoint" in ended.stderr


def test_a_collector_that_takes_no_spans_does_not_hold_up_the_end() -> None:
    program = """
import socket, sys, time
from services.observability import tracing
from services.observability.exposition import traced
with socket.create_server(("127.0.0.1", 0)) as silent:
    endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
    with traced("test", otlp_endpoint=endpoint, ratio=1):
        with tracing.span("lost") as span:
            assert span.is_recording()
        ending = time.monotonic()
    sys.stdout.write(f"{time.monotonic() - ending}")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(ended.stdout) < 5
