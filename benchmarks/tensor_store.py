"""How fast tensors pass between two processes through shared memory, beside a plain copy.

python -m benchmarks.tensor_store [--rounds N] [--directory DIRECTORY]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import torch
from pydantic import SecretStr

from benchmarks.report import write
from services.domain.tensor_ref import Seal, TensorRef
from services.tensor_store.tensor_store import TensorStore, open_store

SIZES_MIB = (1, 8, 64)
WARM_UP_ROUNDS = 3
SCOPE = {"tenant": "benchmark", "request_id": "0" * 32}
SEAL = Seal(SecretStr("benchmark" * 4))

MEMCPY = "memcpy, warm"
PUT = "put, memory used before"
PUT_FRESH = "put, fresh memory"
GET = "get, verified"
GET_UNVERIFIED = "get, not verified"
GET_AND_READ = "get, not verified, every byte read"
PUT_AND_GET = "put + get, verified"
PUT_AND_GET_UNVERIFIED = "put + get, not verified"
NOTES = (
    "One producer process and one consumer process, one thread each, one float32 tensor. All rows"
    " are measured one after the other in every round; `of memcpy` is the median of the ratios"
    " within the rounds. Times are of the calls themselves: the message that carries the reference"
    " from one process to the other is not part of them.",
    "`get` hands out views. Without verification it touches only the header, and the page faults"
    " are left to whoever reads first; `every byte read` adds a sum over the tensor. Verifying"
    " reads every byte to compare the checksum.",
)

Seconds = dict[str, float]


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


class Consumer:
    """The other process."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.tensor_store", "--consume", str(directory)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def get(self, ref: TensorRef) -> Seconds:
        """Lets it get the tensors in every way; returns its own times."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(ref.model_dump_json() + "\n")
        self._process.stdin.flush()
        times: Seconds = json.loads(self._process.stdout.readline())
        return times

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


def consume(directory: Path) -> None:
    """The consumer's own loop: a reference per line in, times per line out."""
    with ExitStack() as stack:
        verifying = stack.enter_context(opened(directory, "verify=true"))
        trusting = stack.enter_context(opened(directory, "verify=false"))
        # Not by iterating, which would read ahead.
        while line := sys.stdin.readline():
            ref = TensorRef.model_validate_json(line)
            times = {
                GET: seconds(partial(get, verifying, ref)),
                GET_UNVERIFIED: seconds(partial(get, trusting, ref)),
                GET_AND_READ: seconds(partial(get, trusting, ref, read=True)),
            }
            print(json.dumps(times), flush=True)


def get(store: TensorStore, ref: TensorRef, *, read: bool = False) -> None:
    """Gets the tensors, and reads them if asked to."""
    with store.get(ref, **SCOPE) as tensors:
        if read:
            tensors["x"].view(torch.int64).sum().item()


@contextmanager
def opened(directory: Path, options: str) -> Iterator[TensorStore]:
    """A store with options of the URL."""
    store = open_store(f"shm://{directory}?{options}", seal=SEAL, ttl_seconds=600)
    with closing(store):
        yield store


def measure(directory: Path, size_mib: int, rounds: int) -> list[Seconds]:
    """Times of every row, round by round."""
    source = torch.rand(size_mib << 18)
    target = torch.empty_like(source)
    with ExitStack() as stack:
        reusing = stack.enter_context(opened(directory, "pool_idle_seconds=600"))
        fresh = stack.enter_context(opened(directory, "pool_idle_seconds=0"))
        consumer = stack.enter_context(closing(Consumer(directory)))
        measured = [
            measure_round(source, target, reusing, fresh, consumer)
            for _ in range(WARM_UP_ROUNDS + rounds)
        ]
    return measured[WARM_UP_ROUNDS:]


def measure_round(
    source: torch.Tensor,
    target: torch.Tensor,
    reusing: TensorStore,
    fresh: TensorStore,
    consumer: Consumer,
) -> Seconds:
    """One time of every row."""
    refs: list[TensorRef] = []

    def put(store: TensorStore) -> None:
        refs.append(store.put({"x": source}, **SCOPE))

    times = {MEMCPY: seconds(lambda: target.copy_(source)), PUT: seconds(lambda: put(reusing))}
    times |= consumer.get(refs[0])
    times[PUT_FRESH] = seconds(lambda: put(fresh))
    for ref in refs:
        reusing.release(ref)
    # Gives the released memory back, so that the next put finds none.
    fresh.sweep()
    times[PUT_AND_GET] = times[PUT] + times[GET]
    times[PUT_AND_GET_UNVERIFIED] = times[PUT] + times[GET_UNVERIFIED]
    return times


def row(size_mib: int, name: str, measured: Sequence[Seconds]) -> dict[str, str | int | float]:
    """One line of the table."""
    low, median, high = statistics.quantiles([times[name] for times in measured], n=4)
    return {
        "MiB": size_mib,
        "what": name,
        "median ms": median * 1e3,
        "quartiles ms": f"{low * 1e3:.3g} to {high * 1e3:.3g}",
        "MB/s": round((size_mib << 20) / median / 1e6),
        "of memcpy": statistics.median(times[MEMCPY] / times[name] for times in measured),
    }


def main() -> None:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--consume", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.consume:
        consume(arguments.consume)
        return
    rows = []
    order = (MEMCPY, PUT, PUT_FRESH, GET, GET_UNVERIFIED, GET_AND_READ)
    for size_mib in SIZES_MIB:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            measured = measure(Path(directory) / "store", size_mib, arguments.rounds)
        names = (*order, PUT_AND_GET, PUT_AND_GET_UNVERIFIED)
        rows += [row(size_mib, name, measured) for name in names]
    notes = [*NOTES, f"{arguments.rounds} rounds per size after {WARM_UP_ROUNDS} to warm up."]
    print(write("tensor_store", "Tensor store over shared memory", rows, notes))


if __name__ == "__main__":
    main()
