"""What it takes to start processes, by exec and by fork.

python -m benchmarks.process_start [--rounds N]
"""

import argparse
import asyncio
import os
import re
import resource
import signal
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.loaded_stage import MODEL, MODULE
from benchmarks.report import Row, write
from triptych.aio import AsyncClient
from triptych.domain.model import Stage
from triptych.launcher.command import Command
from triptych.launcher.fork_launcher import ForkLauncher
from triptych.launcher.launcher import ExecLauncher, Launcher, LauncherName

SERVER = "triptych fork server"
RANK = "denoiser_service.rank"
SERVICES = ("encoder_service", RANK, "vae_service", MODULE)
READY = re.compile(r"^ready +(\S+),", re.MULTILINE)
NOTES = (
    "Medians of {rounds} rounds in which the ways take turns, after one that is not counted, with"
    " OMP_NUM_THREADS=1 and `models/demo` on the CPU; ratio is fork to exec.",
    "A stage: a process imports what the stage imports, loads the stage, and ends; processor"
    " seconds, user and system, and seconds from its start to its end. Exec, collector at work: the"
    " same without `services.torch_setup.lasting_import`, that is with gc.disable() and gc.freeze()"
    " doing nothing. The fork server was ready before.",
    "A cluster: `triptych up --launcher exec` or `fork` is started, a picture of the model's own"
    " size and steps is drawn, the rank is killed, and the cluster is ended. First picture: from"
    " the start of the command, with nothing running, to the picture in the client. Rank: from"
    " SIGKILL to the denoiser's health saying SERVING again. Memory: what all processes of the"
    " cluster take together after the picture, each page counted once (PSS).",
)


@dataclass(frozen=True)
class Figure:
    """Something that was measured both ways, in some unit."""

    what: str
    exec: Sequence[float]
    fork: Sequence[float]
    exec_at_work: Sequence[float] = ()

    def row(self) -> Row:
        """Its medians."""
        executed, forked = statistics.median(self.exec), statistics.median(self.fork)
        at_work = statistics.median(self.exec_at_work) if self.exec_at_work else "-"
        return {
            "what": self.what,
            "exec": executed,
            "fork": forked,
            "ratio": forked / executed,
            "exec, collector at work": at_work,
        }


async def load(launcher: Launcher, stage: Stage, *more: str) -> tuple[float, float]:
    """Processor seconds and seconds of a process that loads a stage."""
    before, began = _processor_seconds(), time.perf_counter()
    command = Command(module=MODULE, arguments=(stage.value, *more), heavy=True)
    code = await (await launcher.launch(command)).wait()
    assert code == 0, f"exit code {code}"
    return _processor_seconds() - before, time.perf_counter() - began


async def stages(rounds: int) -> list[Figure]:
    """A process of each stage."""
    executing, forking = ExecLauncher(), ForkLauncher(SERVICES)
    figures = []
    try:
        await load(forking, Stage.ENCODER)
        for stage in Stage:
            taken = [
                (
                    await load(executing, stage),
                    await load(executing, stage, "at-work"),
                    await load(forking, stage),
                )
                for _ in range(rounds + 1)
            ][1:]
            for place, unit in enumerate(("processor s", "s")):
                by_way = [[way[place] for way in ways] for ways in zip(*taken, strict=True)]
                executed, at_work, forked = by_way
                figures.append(Figure(f"{stage.value} loaded, {unit}", executed, forked, at_work))
    finally:
        await forking.close()
    return figures


async def cluster(launcher: LauncherName) -> Mapping[str, float]:
    """Of one cluster's life."""
    began = time.perf_counter()
    command = ("-m", "triptych", "up", "--listen", "127.0.0.1:0", "--model", str(MODEL))
    up = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--launcher", launcher.value, stdout=PIPE
    )
    try:
        said = await _said_when_ready(up)
        ready = READY.search(said)
        assert ready, said
        serving = time.perf_counter() - began
        async with AsyncClient(ready[1]) as client:
            await client.generate("a red circle on a blue background", seed=7)
        drawn = time.perf_counter() - began
        family = psutil.Process(up.pid).children(recursive=True)
        memory = sum(each.memory_full_info().pss for each in family) / 2**20
        (logs,) = re.findall(r"^logs +(\S+)", said, re.MULTILINE)
        return {
            "`triptych up` until it serves, s": serving,
            "first picture, s": drawn,
            "rank killed until it serves again, s": await _rank_back(Path(logs).parent, family),
            "memory of the cluster, MiB": memory,
        }
    finally:
        up.send_signal(signal.SIGINT)
        await up.wait()


async def clusters(rounds: int) -> list[Figure]:
    """A whole cluster."""
    lives = [{way: await cluster(way) for way in LauncherName} for _ in range(rounds + 1)][1:]
    executed, forked = ([each[way] for each in lives] for way in LauncherName)
    return [
        Figure(what, [each[what] for each in executed], [each[what] for each in forked])
        for what in executed[0]
    ]


async def _said_when_ready(up: Process) -> str:
    assert up.stdout is not None
    said = ""
    while not READY.search(said):
        line = await up.stdout.readline()
        assert line, f"it ended: {said}"
        said += line.decode()
    return said


async def _rank_back(sockets: Path, family: Sequence[psutil.Process]) -> float:
    (rank,) = [each for each in family if RANK in " ".join(each.cmdline())]
    async with grpc.aio.insecure_channel(f"unix:{sockets}/denoiser.sock") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        serving = health_pb2.HealthCheckResponse.SERVING
        assert (await anext(aiter(watch))).status == serving
        began, lost = time.perf_counter(), False
        rank.kill()
        async for answer in watch:
            if answer.status == serving and lost:
                break
            lost = lost or answer.status != serving
    return time.perf_counter() - began


def _processor_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


async def _measured(rounds: int) -> list[Figure]:
    return [*await stages(rounds), *await clusters(rounds)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(arguments).rounds
    # Processes do not look for modules where they are started.
    os.environ["PYTHONPATH"] = str(MODEL.parents[1])  # noqa: TID251 - set for them, not read
    rows = [each.row() for each in asyncio.run(_measured(rounds))]
    title = "Starting processes by exec and by fork"
    print(write("process_start", title, rows, [each.format(rounds=rounds) for each in NOTES]))


if __name__ == "__main__":
    main()
