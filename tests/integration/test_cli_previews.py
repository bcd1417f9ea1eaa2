"""`triptych generate` and previews, as a process, against a server that follows a script."""

import asyncio
import io
import os
import pty
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
from PIL import Image

from tests.integration.command import run
from tests.integration.scripted_cluster import (
    ScriptedGateway,
    completed,
    event,
    serving,
    successful_run,
)
from triptych.v1 import generation_service_pb2 as messages
from triptych.v1 import job_pb2


def png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 2), colour).save(stream, "PNG")
    return stream.getvalue()


PREVIEWS = {2: png("red"), 4: png("blue")}


async def showing(
    request: messages.GenerateRequest, context: grpc.aio.ServicerContext
) -> AsyncIterator[messages.GenerateResponse]:
    *started, _ = successful_run()
    for response in started:
        yield response
    for step, data in PREVIEWS.items():
        yield event(preview=job_pb2.Preview(step=step, data=data, width=4, height=2))
    yield completed()


async def test_previews_are_asked_for_and_written_where_they_are_wanted(tmp_path: Path) -> None:
    previews = tmp_path / "previews"
    previews.mkdir()
    gateway = ScriptedGateway(showing)
    output = str(tmp_path / "circle.png")
    asked = ("--preview-every", "2", "--preview-dir", str(previews))
    async with serving(gateway) as target:
        ended = await run("generate", "a circle", "-o", output, "--target", target, *asked)
    assert (ended.code, ended.err) == (0, "")
    assert gateway.requests[0].parameters.preview_every_steps == 2
    written = {each.name: each.read_bytes() for each in previews.iterdir()}
    assert written == {f"step-{step:04}.png": data for step, data in PREVIEWS.items()}


async def test_previews_that_cannot_be_written_cost_nothing_else(tmp_path: Path) -> None:
    previews = tmp_path / "previews"
    # A directory where a file is to be: as good as a disk that fails.
    (previews / "step-0002.png" / "full").mkdir(parents=True)
    output = tmp_path / "circle.png"
    asked = ("--preview-every", "2", "--preview-dir", str(previews))
    async with serving(ScriptedGateway(showing)) as target:
        ended = await run("generate", "a circle", "-o", str(output), "--target", target, *asked)
    assert ended.code == 0
    assert ended.err.startswith("previews are not written any more: ")
    assert len(ended.err.splitlines()) == 1
    assert output.exists()


async def test_previews_that_nobody_would_see_are_refused(tmp_path: Path) -> None:
    gateway = ScriptedGateway(showing)
    output = str(tmp_path / "circle.png")
    async with serving(gateway) as target:
        for flags, problem in (
            (("--preview-every", "2"), "there is no terminal to show previews on"),
            (("--preview-dir", str(tmp_path)), "has no effect without --preview-every"),
            (("--preview-every", "2", "--preview-dir", "nowhere"), "does not exist"),
        ):
            ended = await run("generate", "a circle", "-o", output, "--target", target, *flags)
            assert ended.code == 2
            assert problem in " ".join(ended.err.split())
    assert gateway.requests == []


async def test_a_terminal_shows_them_in_blocks_of_colour(tmp_path: Path) -> None:
    theirs, ours = pty.openpty()
    output = str(tmp_path / "circle.png")
    async with serving(ScriptedGateway(showing)) as target:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "triptych", "generate", "a circle", "-o", output),
            *("--target", target, "--preview-every", "2"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=ours,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )
        os.close(ours)
        seen = await asyncio.to_thread(_all, theirs)
        assert await process.wait() == 0
    os.close(theirs)
    # Upper and lower half of every pixel of the last one, which stays until the end.
    block = b"\x1b[38;2;0;0;255;48;2;0;0;255m" + "▀".encode()
    assert (block + b"\x1b[0m") * 4 in seen


def _all(terminal: int) -> bytes:
    seen = b""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:
            # How a terminal says that nobody holds its other end any more.
            return seen
        seen += read
