"""What a gateway's memory is bounded by, whatever anybody sends."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from tests.unit.gateway import gateway_process
from tests.unit.pictures.drawn import drawn, encoded
from triptych.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc

MIB = 1 << 20
STORE_MIB, REQUESTS_MIB, TRANSIT_MIB = 64, 32, 32
UPLOADS, REQUESTS = 6, 8
# See docs/operations.md: the store and an eighth, a request twice, a picture on its way four times,
# an upload that is looked at twice, and what is just arriving of calls: a message twice for each.
BOUND_MIB = (
    STORE_MIB * 9 // 8
    + 2 * REQUESTS_MIB
    + 4 * TRANSIT_MIB
    + 2 * 32
    + 2 * 4 * (UPLOADS + 2 * REQUESTS)
)


@contextmanager
def process(tmp_path: Path) -> Iterator[tuple[Any, int]]:
    """A gateway's stub, and its process id."""
    command = [sys.executable, gateway_process.__file__, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == b"ready\n"
            with grpc.insecure_channel(f"unix:{tmp_path}/socket") as channel:
                yield generation_service_pb2_grpc.GenerationServiceStub(channel), started.pid
        finally:
            started.kill()


def most_mib(pid: int) -> int:
    """The most memory that the process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(kib) // 1024


def code(call: Callable[[], Any]) -> str:
    """How a call ended."""
    try:
        answer = call()
        if isinstance(answer, Iterator):
            for _ in answer:
                pass
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def upload(stub: Any, data: bytes, size_bytes: int) -> Any:
    """Sends a picture with as much behind its end as makes it so large."""

    def chunks() -> Iterator[generation_service_pb2.UploadImageRequest]:
        yield generation_service_pb2.UploadImageRequest(data=data)
        for _ in range((size_bytes - len(data)) // MIB):
            yield generation_service_pb2.UploadImageRequest(data=bytes(MIB))

    return stub.UploadImage(chunks(), timeout=100)


def generate(stub: Any, data: bytes) -> Any:
    parameters = generation_pb2.GenerationParameters(
        prompt="a red circle", images=[generation_pb2.InputImage(data=data)]
    )
    asked = generation_service_pb2.GenerateRequest(parameters=parameters)
    return stub.Generate(asked, timeout=100)


def test_many_large_uploads_and_requests_take_no_more_memory_than_is_said(tmp_path: Path) -> None:
    picture = encoded(drawn())
    large = picture + bytes(4 * MIB - len(picture) - 4096)
    with process(tmp_path) as (stub, pid), ThreadPoolExecutor(UPLOADS + 2 * REQUESTS) as threads:
        before = most_mib(pid)
        calls = [
            *([partial(upload, stub, picture, 30 * MIB)] * UPLOADS),
            *([partial(generate, stub, large)] * REQUESTS),
            *([partial(generate, stub, b"no picture" + large)] * REQUESTS),
        ]
        ends = {end for _ in range(2) for end in threads.map(code, calls)}
        grown = most_mib(pid) - before
    assert ends == {"OK", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"}
    assert grown < BOUND_MIB


def test_a_large_request_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    refused = b"no picture" + bytes(4 * MIB - 4096)
    with process(tmp_path) as (stub, pid):
        for _ in range(8):
            assert code(partial(generate, stub, refused)) == "INVALID_ARGUMENT"
        before = most_mib(pid)
        for _ in range(24):
            assert code(partial(generate, stub, refused)) == "INVALID_ARGUMENT"
        # They had 96 MiB.
        assert most_mib(pid) - before < 32
