"""What it is worth that the garbage collector rests while libraries are imported.

python -m benchmarks.process_start [--rounds N]
"""

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, write
from triptych.domain.model import Stage

MODEL = Path(__file__).parents[1] / "models" / "demo"
NOTES = (
    "A process imports what a stage imports, loads that stage of `models/demo`, and ends: its"
    " processor seconds, user and system, in {rounds} rounds in which the two take turns, after one"
    " that is not counted, with OMP_NUM_THREADS=1. At rest: as"
    " `services.torch_setup.memory` has it; at work: the same with gc.disable() and"
    " gc.freeze() doing nothing. Ratios are of the two processes of one round.",
)
AT_WORK = "import gc; gc.disable = gc.freeze = lambda: None\n"
LOADED = """
from pathlib import Path
from triptych.domain.element_type import ElementType
from services.torch_setup.runtime import set_up_torch
set_up_torch(1)
from services.loaded_models.loading import load_{stage}
load_{stage}(Path({model!r}), None, ElementType.FLOAT32, "cpu")
"""


def seconds(program: str) -> float:
    """What a process that runs a program takes of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["env", "OMP_NUM_THREADS=1", sys.executable, "-c", program]
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(stage: Stage, rounds: int) -> Row:
    """One stage's process, both ways."""
    program = LOADED.format(stage=stage.value, model=str(MODEL))
    pairs = [(seconds(program), seconds(AT_WORK + program)) for _ in range(rounds + 1)][1:]
    ratios = [rest / work for rest, work in pairs]
    return {
        "stage": stage.value,
        "at rest, median s": statistics.median(rest for rest, _ in pairs),
        "at work, median s": statistics.median(work for _, work in pairs),
        "ratio, median": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(arguments).rounds
    rows = [row(each, rounds) for each in Stage]
    title = "Starting a stage's process with the garbage collector at rest"
    print(write("process_start", title, rows, [each.format(rounds=rounds) for each in NOTES]))


if __name__ == "__main__":
    main()
