"""The gateway alone, with stages that do nothing: how many jobs it takes in, holds and carries out.

python -m benchmarks.emulated_gateway [--jobs N]
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from benchmarks.report import Row, write
from services.observability.logs import configure
from tests.unit.gateway.running_gateway import running_gateway
from tests.unit.gateway.scripted_stages import ScriptedStage
from tests.valkey_server import key_value_server
from triptych.aio import AsyncClient
from triptych.domain.job import JobState

AT_ONCE = 64
"""Submissions under way, and jobs at work."""
NOTES = (
    "**Emulated**: the stages are objects in the gateway's process that answer at once with two"
    " steps and six bytes of media; nothing is computed, and nothing crosses a wire but what is"
    " between client and gateway. What is measured is the gateway, its ledger and its artifact"
    " store, on two cores that they share with the client: no cluster does so many jobs a second.",
    f"Jobs are handed in by one client, {AT_ONCE} submissions at a time, while the first"
    f" {AT_ONCE} of them stand still in the encoder, so that all the others are queued; then they"
    " are let go. `carried out` is from there until the last one has ended; each is claimed, goes"
    " through three stages, and has ten events. Every job is then listed, and has succeeded. Memory"
    " is the gateway's resident set: with `memory:` it holds the jobs itself. The server of"
    " `redis:` is an embedded Valkey with `appendfsync always`, which is in none of the figures.",
)


class Counting(list[Any]):
    """Remembers nothing but how many came."""

    def __init__(self) -> None:
        super().__init__()
        self.came = 0
        self.waited_for = 0
        self.reached = asyncio.Event()

    def append(self, each: object) -> None:
        self.came += 1
        if self.came == self.waited_for:
            self.reached.set()


async def serve(directory: Path, ledger: str, jobs: int) -> None:
    """A gateway that holds jobs back until it reads a line, and writes one when all are done."""
    kept = "memory:?quota_bytes=64MiB" if ledger == "memory:" else f"file://{directory}/artifacts"
    told = {"jobs": ledger, "max_running_jobs": AT_ONCE, "artifacts": kept}
    async with running_gateway(directory, patience_seconds=3600, **told) as gateway:
        cluster = gateway.cluster
        for stage in cluster.stages.values():
            _forget(stage)
        cluster.vae.artifact_id = None
        released = cluster.vae.releases = Counting()
        released.waited_for = jobs
        cluster.encoder.may_go_on.clear()
        _say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        cluster.encoder.may_go_on.set()
        await released.reached.wait()
        _say("done")
        await asyncio.to_thread(sys.stdin.readline)


def _forget(stage: ScriptedStage) -> None:
    # Or it would be they who take the memory.
    stage.requests = Counting()  # type: ignore[attr-defined]
    stage.deadlines = Counting()
    stage.releases = Counting()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def served(directory: Path, ledger: str, jobs: int) -> Iterator[subprocess.Popen[str]]:
    """The gateway's process."""
    told = (str(directory), ledger, str(jobs))
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.emulated_gateway", "--serve", *told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _hear(process.stdout, "ready")
        yield process
    finally:
        process.communicate("\n", 60)


def _tell(told: IO[str] | None, line: str) -> None:
    assert told is not None
    told.write(f"{line}\n")
    told.flush()


def _hear(output: IO[str] | None, line: str) -> None:
    assert output is not None
    if (heard := output.readline()) != f"{line}\n":
        raise RuntimeError(f"the gateway said {heard!r}")


async def _submitted(client: AsyncClient, jobs: int) -> None:
    left = iter(range(jobs))

    async def submit() -> None:
        for number in left:
            await client.submit("a red circle", request_id=f"job-{number}", timeout=60)

    await asyncio.gather(*(submit() for _ in range(AT_ONCE)))


async def measured(name: str, ledger: str, jobs: int) -> Row:
    """One ledger's row.

    Raises:
        AssertionError: a job is lost, or did not succeed.
    """
    with ExitStack() as exits:
        # Not in a deeper directory: a socket's path has at most 107 bytes.
        folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="eg-"))
        process = exits.enter_context(served(Path(folder), ledger, jobs))
        gateway = psutil.Process(process.pid)
        memory = [gateway.memory_info().rss]
        async with AsyncClient(f"unix:{folder}/socket", timeout=60) as client:
            began = time.monotonic()
            await _submitted(client, jobs)
            taken = time.monotonic() - began
            memory.append(gateway.memory_info().rss)
            began = time.monotonic()
            _tell(process.stdin, "go")
            await asyncio.to_thread(_hear, process.stdout, "done")
            carried = time.monotonic() - began
            memory.append(gateway.memory_info().rss)
            states = [each.state async for each in client.jobs(page_size=1000)]
        assert states.count(JobState.SUCCEEDED) == len(states) == jobs
    before, queued, after = (each / 2**20 for each in memory)
    return {
        "ledger": name,
        "jobs": jobs,
        "taken in /s": round(jobs / taken),
        "carried out /s": round(jobs / carried),
        "MiB before": round(before),
        "MiB all queued": round(queued),
        "MiB all ended": round(after),
        "KiB each queued": round(1024 * (queued - before) / jobs, 1),
    }


async def compared(jobs: int) -> list[Row]:
    """A row for each ledger."""
    with key_value_server("--appendonly", "yes", "--appendfsync", "always") as server:
        urls = {"memory:": "memory:", "redis:": server.url}
        return [await measured(name, url, jobs) for name, url in urls.items()]


def main() -> None:
    """Measures and writes results/emulated_gateway."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--jobs", type=int, default=10_000)
    arguments.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    told = arguments.parse_args()
    if told.serve is not None:
        directory, ledger, jobs = told.serve
        configure("gateway", "error", "json")
        asyncio.run(serve(Path(directory), ledger, int(jobs)))
        return
    title = "What the gateway does alone (emulated stages)"
    print(write("emulated_gateway", title, asyncio.run(compared(told.jobs)), NOTES))


if __name__ == "__main__":
    main()
