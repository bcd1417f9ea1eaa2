"""What ranks tell one another in a step, and what CFG-Parallel gains on two cores.

python -m benchmarks.parallel_cpu [--rounds N]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import SecretStr

from benchmarks.loops import our_loop
from benchmarks.random_model import QWEN_IMAGE, RandomModel
from benchmarks.report import Row, write
from denoiser_service.rank.parallel.mesh import RankMesh
from denoiser_service.rank.stage import DenoiseStage
from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.runtime import set_up_torch
from triptych.domain.parallel import ParallelDegrees

TIMEOUT = timedelta(minutes=5)
SIDE, PROMPT, LAYERS, HEADS, WIDTH = 512, 64, 6, 8, 64
ARCHITECTURE = QWEN_IMAGE.resized(
    num_layers=LAYERS,
    num_attention_heads=HEADS,
    attention_head_dim=WIDTH,
    axes_dims_rope=[16, 24, 24],
    joint_attention_dim=HEADS * WIDTH,
)
# Of the velocity of one token: 2 x 2 latents of 16 channels.
CHANNELS, BRANCHES, BYTES = 64, 2, 4
DRAWN = (SIDE // 16) ** 2
STEPS = 2
SPREAD = (
    ParallelDegrees(ulysses=2),
    ParallelDegrees(ring=2),
    ParallelDegrees(cfg=2),
    ParallelDegrees(ulysses=2, ring=2),
    ParallelDegrees(cfg=2, ulysses=2),
)
NOTES = (
    "On two cores this shows that ranks work correctly and what they tell one another. It says"
    " nothing about speed on GPUs, where a step is faster and links are others; only CFG-Parallel,"
    " whose ranks do not wait for one another within a forward, is timed.",
    f"Qwen-Image's architecture with {LAYERS} layers, {HEADS} heads of {WIDTH} and random weights,"
    f" float32, {SIDE} x {SIDE} pixels ({DRAWN} tokens, and {PROMPT} of the prompt), guidance on:"
    " two forwards a step. Ranks are processes with one thread that talk by gloo.",
    "Received is what one rank gets from others in one step, counted at every collective that it"
    " calls. The formula for a forward, with U, R and C the degrees of Ulysses, Ring and CFG, P ="
    " UR, N all tokens and n those drawn, H heads of D, L layers, 4 bytes a number: Ulysses"
    " 4 L (N/P) H D (U-1)/U; Ring 2 L (R-1) (N/R) (H/U) D; the gathering after the last layer"
    " (P-1) (n/P) H D. A rank makes 2/C forwards a step, and CFG gathers (C-1) n 64 once.",
    "Difference is the largest between the latents of these ranks and of one process, in relation"
    " to the largest latent.",
)


class Received:
    """Counts the bytes that come from other ranks."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Every collective that the ranks of a request use."""
        ways: dict[str, Callable[..., int]] = {
            "all_to_all_single": self._exchanged,
            "batch_isend_irecv": self._sent_round,
            "all_gather": self._gathered,
            "all_reduce": self._unforeseen,
            "broadcast": self._unforeseen,
        }
        before = {name: getattr(dist, name) for name in ways}
        for name, count in ways.items():
            setattr(dist, name, self._counted(before[name], count))
        try:
            yield
        finally:
            for name, call in before.items():
                setattr(dist, name, call)

    def _counted(self, call: Callable[..., Any], count: Callable[..., int]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - torch's own types
            self.bytes += count(*given, **named)
            return call(*given, **named)

        return counted

    @staticmethod
    def _exchanged(
        output: torch.Tensor,
        _: object,
        sizes: list[int],
        __: object,
        *,
        group: Any,  # noqa: ANN401 - torch's
    ) -> int:
        own = dist.get_rank(group)
        return output.element_size() * sum(size for at, size in enumerate(sizes) if at != own)

    @staticmethod
    def _sent_round(moves: list[Any]) -> int:
        return sum(each.tensor.nbytes for each in moves if each.op is dist.irecv)

    @staticmethod
    def _gathered(parts: list[torch.Tensor], _: object, *, group: object) -> int:
        return sum(each.nbytes for each in parts[1:])

    @staticmethod
    def _unforeseen(*_: object, **__: object) -> int:
        raise RuntimeError("the formula knows nothing of this one")


def formula(degrees: ParallelDegrees) -> float:
    """Bytes that one rank gets from others in one step."""
    ulysses, ring, cfg = degrees.ulysses, degrees.ring, degrees.cfg
    parts, tokens, width = ulysses * ring, DRAWN + PROMPT, HEADS * WIDTH
    exchanged = 4 * LAYERS * tokens / parts * width * (ulysses - 1) / ulysses
    round_ring = 2 * LAYERS * (ring - 1) * tokens / ring * width / ulysses
    gathered = (parts - 1) * DRAWN / parts * width
    forwards, branches = BRANCHES / cfg, (cfg - 1) * DRAWN * CHANNELS
    return BYTES * (forwards * (exchanged + round_ring + gathered) + branches)


class Rank:
    """One process of a group, with the model alone and with the others."""

    def __init__(self, mesh: RankMesh, folder: Path, store: TensorStore) -> None:
        self._store = store
        self._models = [
            RandomModel(ARCHITECTURE, folder / name, torch.device("cpu"), torch.float32)
            for name in ("alone", "together")
        ]
        self._stages = [
            DenoiseStage(each.staged(each.transformer), store, mesh=where)
            for each, where in zip(self._models, (None, mesh), strict=True)
        ]

    def run(self, *, together: bool) -> tuple[torch.Tensor, list[float]]:
        """Latents, and the seconds that each step took."""
        model, stage = self._models[together], self._stages[together]
        parameters = model.parameters(width=SIDE, height=SIDE, steps=STEPS, guidance_scale=4.0)
        stamps = [time.perf_counter()]
        looped = our_loop(model, stage, self._store, parameters)(
            lambda: stamps.append(time.perf_counter())
        )
        # The first one holds the preparation.
        return looped.latents, [end - start for start, end in pairwise(stamps[1:])]


def work(number: int, port: int, degrees: ParallelDegrees, rounds: int, folder: Path) -> None:
    """One rank; the first one prints what it measured."""
    set_up_torch(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=TIMEOUT)
    dist.init_process_group(
        "gloo", store=store, rank=number, world_size=degrees.ranks, timeout=TIMEOUT
    )
    mesh = RankMesh.build(degrees, TIMEOUT)
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=600)) as tensors:
        rank, received = Rank(mesh, folder / str(number), tensors), Received()
        alone, _ = rank.run(together=False)
        with received.counting():
            latents, _ = rank.run(together=True)
        apart = ((latents - alone).abs().max() / alone.abs().max()).item()
        seconds = alternate(rank, number, rounds)
    dist.destroy_process_group()
    if number == 0:
        measured = {"bytes": received.bytes / STEPS, "difference": apart, "seconds": seconds}
        print(json.dumps(measured))


def alternate(rank: Rank, number: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of steps alone, while the other ranks wait, and together, in alternating order."""
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    for turn in range(rounds):
        for together in (False, True) if turn % 2 else (True, False):
            dist.barrier()
            if together or number == 0:
                seconds["together" if together else "alone"] += rank.run(together=together)[1]
    dist.barrier()
    return seconds


def measure(degrees: ParallelDegrees, rounds: int) -> dict[str, Any]:
    """Starts the ranks of a group; returns what the first one measured."""
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=TIMEOUT)
    told = [
        f"--port={meeting.port}",
        f"--rounds={rounds}",
        f"--degrees={json.dumps(_named(degrees))}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.parallel_cpu", f"--in={folder}", *told]
        ranks = [
            subprocess.Popen([*command, f"--rank={number}"], stdout=subprocess.PIPE, text=True)
            for number in range(degrees.ranks)
        ]
        try:
            printed, _ = ranks[0].communicate(timeout=TIMEOUT.total_seconds())
        finally:
            for each in ranks:
                each.kill()
                each.wait()
    measured = json.loads(printed)
    assert isinstance(measured, dict)
    return measured


def _named(degrees: ParallelDegrees) -> dict[str, int]:
    return {"cfg": degrees.cfg, "ring": degrees.ring, "ulysses": degrees.ulysses}


def row(degrees: ParallelDegrees, measured: dict[str, Any]) -> Row:
    """One way to spread a step."""
    spread = [f"{name} {degree}" for name, degree in _named(degrees).items() if degree > 1]
    return {
        "ranks": degrees.ranks,
        "spread": ", ".join(spread),
        "received per step, KiB": f"{measured['bytes'] / 1024:.1f}",
        "formula, KiB": f"{formula(degrees) / 1024:.1f}",
        "difference": f"{measured['difference']:.1e}",
    }


def timing_note(seconds: dict[str, list[float]], load: float) -> str:
    """How much faster CFG-Parallel was, and whether others used the cores when it began."""
    said = {
        name: f"{statistics.median(each):.3f} s (fastest {min(each):.3f}, slowest {max(each):.3f})"
        for name, each in seconds.items()
    }
    gain = statistics.median(seconds["alone"]) / statistics.median(seconds["together"])
    return (
        f"A step with CFG one branch after the other in one process with one thread took"
        f" {said['alone']}; with one branch on each of two ranks, one thread each,"
        f" {said['together']}: {gain:.2f} times as fast. Medians of {len(seconds['alone'])} steps,"
        " the two taking turns. Two cores that nobody else uses should come near 2; the machine's"
        f" load average was {load:.1f} when this began."
    )


def main() -> None:
    """Measures and writes the results, or works as one of its ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    for name in ("--rank", "--port"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--degrees", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--in", type=Path, dest="folder", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.rank is not None:
        work(told.rank, told.port, ParallelDegrees(**told.degrees), told.rounds, told.folder)
        return
    timed, (load, _, _) = ParallelDegrees(cfg=2), os.getloadavg()
    found = {each: measure(each, told.rounds if each == timed else 0) for each in SPREAD}
    rows = [row(*each) for each in found.items()]
    notes = [timing_note(found[timed]["seconds"], load), *NOTES]
    print(write("parallel_cpu", "Ranks on a CPU", rows, notes))


if __name__ == "__main__":
    main()
