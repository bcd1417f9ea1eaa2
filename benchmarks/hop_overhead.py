"""What splitting the stages into processes costs one request: split minus fused.

python -m benchmarks.hop_overhead [--pairs N] [--model DIRECTORY]
"""

import argparse
import asyncio
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from benchmarks.report import Row, write
from triptych import Client
from triptych.cluster.address import Address
from triptych.cluster.cluster import ClusterSpec, LocalCluster
from triptych.cluster.topology import FusedTopology, ModelOptions, SplitTopology
from triptych.generation import Generation

WARM_UP_REQUESTS = 3
NOTES = (
    "The same request to a split cluster (gateway, encoder, denoiser with its rank, VAE: five"
    " processes, unix sockets, tensors through shared memory) and to a fused one (one process),"
    " both running, one after the other, in random order within each pair. Times are the gateway's"
    " own, from the accepted request to the finished picture: medians, and the median of the"
    " differences within pairs with its 95 % interval.",
    "Both compute the same bits with one torch thread per process, so the times of computing differ"
    " by the machine's noise alone, which is larger than what is looked for. `outside` leaves them"
    " out: it is what remains of a request after the stages' own computing, which is the calls"
    " between processes, the tensor transfers, and a command and its reply for every step.",
)


@dataclass(frozen=True)
class Workload:
    """A request to time."""

    name: str
    steps: int
    guidance_scale: float


WORKLOADS = (
    Workload("128 x 128, 2 steps, no guidance", 2, 1.0),
    Workload("128 x 128, 20 steps, guidance 4", 20, 4.0),
)


def draw(client: Client, workload: Workload) -> Generation:
    """One request; its tensors are the same in both clusters."""
    return client.generate(
        "a red circle on a blue background",
        steps=workload.steps,
        guidance_scale=workload.guidance_scale,
        width=128,
        height=128,
        seed=7,
    )


def pairs_of(
    split: Client, fused: Client, workload: Workload, pairs: int
) -> list[tuple[Generation, Generation]]:
    """Alternates between the clusters, so that drifts of the machine meet both."""
    order = Random(0)
    for client in (split, fused):
        for _ in range(WARM_UP_REQUESTS):
            draw(client, workload)
    drawn = []
    for _ in range(pairs):
        if order.random() < 0.5:
            first = draw(split, workload)
            drawn.append((first, draw(fused, workload)))
        else:
            first = draw(fused, workload)
            drawn.append((draw(split, workload), first))
    return drawn


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Where the median lies with 95 % confidence, by resampling with a fixed seed."""
    draws = Random(0)
    medians = sorted(statistics.median(draws.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[-50]


def outside_ms(drawn: Generation) -> float:
    """What a request took beyond the stages' own computing."""
    computing = sum(stage.run_seconds for stage in drawn.stage_timings)
    return 1000 * (drawn.total_seconds - computing)


def difference(values: Sequence[tuple[float, float]]) -> str:
    """Median of the differences within pairs, and where it lies with 95 % confidence."""
    differences = [split - fused for split, fused in values]
    low, high = interval_of_median(differences)
    return f"{statistics.median(differences):.1f} ({low:.1f} to {high:.1f})"


def row_of(workload: Workload, drawn: Sequence[tuple[Generation, Generation]]) -> Row:
    """Milliseconds.

    Raises:
        AssertionError: the clusters drew different pictures.
    """
    assert all(split.data == fused.data for split, fused in drawn)
    totals = [(1000 * split.total_seconds, 1000 * fused.total_seconds) for split, fused in drawn]
    outside = [(outside_ms(split), outside_ms(fused)) for split, fused in drawn]
    return {
        "request": workload.name,
        "split ms": statistics.median(split for split, _ in totals),
        "fused ms": statistics.median(fused for _, fused in totals),
        "split - fused ms": difference(totals),
        "outside split ms": statistics.median(split for split, _ in outside),
        "outside fused ms": statistics.median(fused for _, fused in outside),
        "outside split - fused ms": difference(outside),
        "pairs": len(drawn),
    }


async def measure(model: Path, pairs: int) -> list[Row]:
    """Starts both clusters and times every workload."""
    # What is remembered is not computed, and cannot be told apart from the hops.
    options = ModelOptions((model,), conditioning_cache="0")
    any_port = Address("127.0.0.1", 0)
    spec = ClusterSpec(topology=SplitTopology(options), address=any_port)
    async with AsyncExitStack() as exits:
        split = await exits.enter_async_context(LocalCluster(spec))
        fused = await exits.enter_async_context(
            LocalCluster(replace(spec, topology=FusedTopology(options)))
        )
        with Client(split.target) as to_split, Client(fused.target) as to_fused:
            rows = []
            for workload in WORKLOADS:
                drawn = await asyncio.to_thread(pairs_of, to_split, to_fused, workload, pairs)
                rows.append(row_of(workload, drawn))
            return rows


def main() -> None:
    """Measures and writes results/hop_overhead."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pairs", type=int, default=60)
    arguments.add_argument("--model", type=Path, default=Path("models/demo"))
    told = arguments.parse_args()
    rows = asyncio.run(measure(told.model, told.pairs))
    title = "What a request pays for separate processes"
    print(write("hop_overhead", title, rows, NOTES))


if __name__ == "__main__":
    main()
