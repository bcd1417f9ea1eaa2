"""Lets more than a hundred thousand inputs in by every door, and counts what comes of them.

python -m benchmarks.fuzzing [--share F] [--seed N] [--target WORD]
"""

import argparse
import faulthandler
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import psutil

from benchmarks.report import Row, page, write
from tests.fuzz.campaign import Outcome, Target, run
from tests.fuzz.targets import cluster_targets, local_targets
from tests.system.running_cluster import RunningCluster, running_cluster

HUNG_SECONDS = 120.0
"""After which the run is ended, with what every thread was doing."""
MAX_GROWTH_BYTES = 512 * 2**20
"""Of each process, over all inputs: pictures of 8192 x 8192 pixels are decoded meanwhile."""
NOTES = (
    "Inputs are made by Hypothesis {hypothesis}, seed {seed}: sound messages, files and texts with"
    " a few changes, ones made up from their descriptions, and damaged bytes. Names of RPCs are"
    " calls to a split cluster of real processes with the demo model; the others are calls of the"
    " same code in one process. Each input is taken (OK), refused with a code and reason of the"
    " table in docs/operations.md, or ends the start of a process or command with exit code 2 and"
    " a sentence; anything else ends the run. So does an input that takes longer than 20 s (a call:"
    " 60 s). `not a message`: bytes that protobuf does not read, where no server refuses them.",
    "{total} inputs in {seconds:.0f} s. Afterwards no request ran or waited in any stage, the"
    " tensor store was empty, and the same request drew the same picture as before. The largest"
    " growth of a process's memory was {growth} MiB.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs everything; writes the results if it was everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of a whole run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", default="", help="only those with this in their name")
    told = parser.parse_args(arguments)
    growth: list[int] = []
    outcomes = []
    with local_targets() as targets, _bounded([os.getpid()], growth):
        outcomes += _run(targets, told)
    with (
        running_cluster("--topology", "split") as cluster,
        _bounded(_processes(cluster), growth),
        cluster_targets(cluster) as targets,
    ):
        outcomes += _run(targets, told)
    rows = [_row(each) for each in outcomes]
    notes = [
        each.format(
            hypothesis=version("hypothesis"),
            seed=told.seed,
            total=sum(each.counts.total() for each in outcomes),
            seconds=sum(each.seconds for each in outcomes),
            growth=max(growth) // 2**20,
        )
        for each in NOTES
    ]
    whole = told.share >= 1 and not told.target
    title = "What hostile inputs come to"
    print(write("fuzzing", title, rows, notes) if whole else page(title, rows, notes))


def _run(targets: Sequence[Target], told: argparse.Namespace) -> Iterator[Outcome]:
    for each in targets:
        if told.target not in each.name:
            continue
        outcome = run(each, max(1, int(each.whole * told.share)), told.seed, _watch)
        print(f"{each.name}: {dict(outcome.counts)} in {outcome.seconds:.0f} s", flush=True)
        yield outcome
    faulthandler.cancel_dump_traceback_later()


def _watch() -> None:
    faulthandler.dump_traceback_later(HUNG_SECONDS, exit=True)


def _row(outcome: Outcome) -> Row:
    counts = ", ".join(f"{came_to} {count}" for came_to, count in outcome.counts.most_common())
    return {
        "target": outcome.target,
        "inputs": outcome.counts.total(),
        "came to": counts,
        "seconds": outcome.seconds,
        "slowest s": outcome.slowest,
    }


def _processes(cluster: RunningCluster) -> list[int]:
    return [*map(cluster.pid, ("gateway", "encoder", "denoiser", "vae", "rank"))]


@contextmanager
def _bounded(processes: Sequence[int], growth: list[int]) -> Iterator[None]:
    """Fails if one of the processes has grown too large, or was replaced."""
    held = {pid: psutil.Process(pid) for pid in processes}
    before = {pid: each.memory_info().rss for pid, each in held.items()}
    yield
    grown = [each.memory_info().rss - before[pid] for pid, each in held.items()]
    assert max(grown) < MAX_GROWTH_BYTES, f"grew by {max(grown)} bytes"
    growth += grown


if __name__ == "__main__":
    main()
