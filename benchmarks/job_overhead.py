"""What a streamed request costs since it is a job: the gateway of an earlier commit, and this one.

python -m benchmarks.job_overhead [--base COMMIT] [--rounds N] [--model DIRECTORY]
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.hop_overhead import WORKLOADS, Workload, interval_of_median
from benchmarks.report import Row, write
from services.domain.settings import environment_with
from triptych import Client
from triptych.domain.events import Accepted
from triptych.events import Event

ROOT = Path(__file__).parents[1]
BEFORE_JOBS = "4946708"
WARM_UP_REQUESTS = 3
BEFORE, IN_MEMORY, ON_DISK = "before", "memory:", "redis:"
NOTES = (
    "`Generate` of three clusters that run at once, split as `triptych up` splits them, with the"
    " demo model, asked one after the other, in another random order each round: `before` is the"
    " commit {base}, the last one whose streams were no jobs; the others are the tree that this"
    " page is part of, with the ledger in memory and artifacts in memory (`--state off`), and with"
    " the ledger in an embedded Valkey with `appendfsync always` and artifacts in files (`--state"
    " DIR`, on {disk}).",
    "Milliseconds at the client, which is the same for all. `first event` is until the request is"
    " known to be accepted. `outside` is the whole request less what the stages say that they"
    " computed, whose noise is larger than what is looked for: it is all that gateway, ledger,"
    " artifact store and wire cost. Differences are medians of those within rounds, with their"
    " 95 % intervals; spreads are the quartiles. Two cores share three"
    " clusters, of which one works at a time, and {load}.",
)

_READY = re.compile(r"^ready\s+(\S+?),", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One request: seconds until its first event, for all of it, and without computing."""

    first: float
    whole: float
    outside: float
    data: bytes


@contextmanager
def earlier_tree(commit: str) -> Iterator[Path]:
    """The code of a commit."""
    with tempfile.TemporaryDirectory(prefix="triptych-base-") as directory:
        packed = Path(directory) / "tree.tar"
        subprocess.run(
            ["git", "archive", "--output", packed, commit, "--", "*.py", "*.pyi", "*.toml"],
            cwd=ROOT,
            check=True,
        )
        with tarfile.open(packed) as archive:
            archive.extractall(directory, filter="data")
        yield Path(directory)


@contextmanager
def cluster(tree: Path, model: Path, *options: str) -> Iterator[Client]:
    """A client of a cluster that runs the code of a tree."""
    # What is remembered is not computed, and would hide what encoding is.
    told = ("--model", str(model.absolute()), "--conditioning-cache", "0", *options)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "triptych", "up", "--listen", "127.0.0.1:0", *told],
            cwd=tree,
            env=environment_with(PYTHONPATH=str(tree)),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while not (ready := _READY.search(os.pread(output.fileno(), 1 << 16, 0).decode())):
                if process.poll() is not None:
                    output.seek(0)
                    raise RuntimeError(f"{tree}: {output.read()}")
                time.sleep(0.1)
            with Client(ready.group(1), timeout=60) as client:
                yield client
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def draw(client: Client, workload: Workload) -> Drawn:
    """Asks for a picture, the same each time."""
    began = time.perf_counter()
    first = 0.0

    def note(event: Event) -> None:
        nonlocal first
        if isinstance(event, Accepted):
            first = time.perf_counter() - began

    drawn = client.generate(
        "a red circle on a blue background",
        steps=workload.steps,
        guidance_scale=workload.guidance_scale,
        seed=7,
        on_event=note,
    )
    whole = time.perf_counter() - began
    computing = sum(stage.run_seconds for stage in drawn.stage_timings)
    return Drawn(first, whole, whole - computing, drawn.data)


def rounds_of(
    clients: Mapping[str, Client], workload: Workload, rounds: int
) -> Sequence[Mapping[str, Drawn]]:
    """Asks all, so that drifts of the machine meet all."""
    order = Random(0)
    for client in clients.values():
        for _ in range(WARM_UP_REQUESTS):
            draw(client, workload)
    drawn = []
    for _ in range(rounds):
        turns = list(clients)
        order.shuffle(turns)
        drawn.append({name: draw(clients[name], workload) for name in turns})
    return drawn


def rows_of(workload: Workload, drawn: Sequence[Mapping[str, Drawn]]) -> Iterator[Row]:
    """A row for each cluster.

    Raises:
        AssertionError: they drew different pictures.
    """
    assert len({each.data for round_ in drawn for each in round_.values()}) == 1
    for name in (BEFORE, IN_MEMORY, ON_DISK):
        yield {
            "request": workload.name,
            "ledger": name,
            "first event ms": _spread([1000 * each[name].first for each in drawn]),
            "whole ms": _spread([1000 * each[name].whole for each in drawn]),
            "outside ms": _spread([1000 * each[name].outside for each in drawn]),
            "outside - before ms": _difference(
                [1000 * (each[name].outside - each[BEFORE].outside) for each in drawn]
            ),
            "rounds": len(drawn),
        }


def _spread(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _difference(values: Sequence[float]) -> str:
    if not any(values):
        return "0"
    low, high = interval_of_median(values)
    return f"{statistics.median(values):.1f} ({low:.1f} to {high:.1f})"


def _file_system(directory: Path) -> str:
    """Its kind, which is what an fsync costs."""
    found = subprocess.run(
        ["stat", "--file-system", "--format=%T", directory],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()


def main() -> None:
    """Measures and writes results/job_overhead."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--base", default=BEFORE_JOBS)
    arguments.add_argument("--rounds", type=int, default=60)
    arguments.add_argument("--model", type=Path, default=Path("models/demo"))
    told = arguments.parse_args()
    with ExitStack() as exits:
        base = exits.enter_context(earlier_tree(told.base))
        # Beside the tree, since /tmp may be memory, where an fsync costs nothing.
        (ROOT / "build").mkdir(exist_ok=True)
        state = exits.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "build"))
        disk = _file_system(Path(state))
        clients = {
            BEFORE: exits.enter_context(cluster(base, told.model)),
            IN_MEMORY: exits.enter_context(cluster(ROOT, told.model, "--state", "off")),
            ON_DISK: exits.enter_context(cluster(ROOT, told.model, "--state", state)),
        }
        rows = [
            row
            for workload in WORKLOADS
            for row in rows_of(workload, rounds_of(clients, workload, told.rounds))
        ]
    title = "What a streamed request costs since it is a job"
    load = f"the load average was {os.getloadavg()[2]:.1f} over the last quarter of an hour"
    notes = [each.format(base=told.base, disk=disk, load=load) for each in NOTES]
    print(write("job_overhead", title, rows, notes))


if __name__ == "__main__":
    main()
