import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.rpc.process import run_until_first_ends

pytestmark = pytest.mark.slow


def _command(listen: str, *flags: str) -> list[str]:
    # Its stages need not be there: a gateway starts without them and waits.
    stages = [f"--{stage}=unix:/nowhere" for stage in ("encoder", "denoiser", "vae")]
    # Any file that is long enough is a secret.
    told = (f"--listen={listen}", f"--cluster-secret-file={__file__}", *stages, *flags)
    return [sys.executable, "-m", "services.gateway", *told]


@contextmanager
def _started(listen: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = _command(listen, *flags)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            with grpc.insecure_channel(listen) as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_well_when_told_to(tmp_path: Path, number: signal.Signals) -> None:
    with _started(f"unix:{tmp_path}/socket") as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0
    assert "Traceback" not in said
    assert "stopped" in said


def test_a_process_whose_address_is_taken_says_so_and_exits_with_two() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = subprocess.run(
            _command(listen), capture_output=True, text=True, check=False, timeout=60
        )
    assert ended.returncode == 2
    assert f"gateway: listen: cannot listen on {listen}; another process may" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_process_takes_over_the_socket_file_of_one_that_was_killed(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/socket"
    with _started(listen) as first:
        first.kill()
        first.wait(60)
    assert (tmp_path / "socket").exists()
    with _started(listen), grpc.insecure_channel(listen) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=20
        )
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_process_can_end_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/socket"
    program = (
        "import os, signal, subprocess\n"
        f"command = [*{_command(listen)!r}, f'--exit-with-parent={{os.getpid()}}']\n"
        "print(subprocess.Popen(command, stderr=subprocess.DEVNULL).pid, flush=True)\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with parent:
        try:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            with grpc.insecure_channel(listen) as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
        finally:
            parent.kill()
        _, alive = psutil.wait_procs([child], timeout=60)
    assert not alive


async def test_the_first_that_ends_ends_the_others() -> None:
    ended = asyncio.Event()

    async def lasting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def short() -> None:
        await asyncio.sleep(0)

    await asyncio.wait_for(run_until_first_ends(lasting(), short()), 20)
    assert ended.is_set()


async def test_the_first_that_fails_fails_the_whole() -> None:
    async def failing() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await run_until_first_ends(asyncio.Event().wait(), failing())


async def test_cancelling_the_whole_ends_all_of_it() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def lasting() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(run_until_first_ends(lasting()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_a_process_that_broke_exits_with_one_though_a_thread_hangs() -> None:
    program = (
        "import sys, threading\n"
        "from pydantic_settings import SettingsConfigDict\n"
        "from services.domain.settings import ServerSettings\n"
        "from services.rpc.process import run_process\n"
        "from triptych.domain.errors import StageUnavailable\n"
        "class Settings(ServerSettings):\n"
        "    model_config = SettingsConfigDict(env_prefix='TRIPTYCH_UNIT_TEST_')\n"
        "async def main(settings):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    raise StageUnavailable('the vae hangs')\n"
        "run_process('vae', Settings, main)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "--listen=unix:/nowhere"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (1, "vae: the vae hangs\n")
