"""Kills, stops and drains processes of a cluster under a stream of jobs, and looks what is lost.

python -m benchmarks.faults [--jobs N] [--kills N] [--drains N] [--seed N]
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.report import Row, page, write
from tests.checkpoints import checkpoint
from tests.faults.campaign import Outcome, Plan, campaign
from tests.faults.hurt_cluster import Studio
from tests.faults.orders import Painter
from tests.system.running_cluster import MODEL

TEXT: Final = Painter("text", "triptych-demo", steps=16, width=128)
EDIT: Final = Painter("edit", "qwen-image-edit", steps=8, width=64)
VIDEO: Final = Painter("video", "wan2.2-t2v-a14b", steps=12, width=64, frames=9)
CHECKPOINT_STEPS: Final = 4
NOTES: Final = (
    "{jobs} jobs, {at_once} at a time, over two gateways; of the model for text two encoders, two"
    " denoisers and two VAEs, of those for edits and videos an encoder, a denoiser (for videos of"
    " two ranks) and a VAE each; tensors in one Valkey server, jobs in another that"
    " writes each change to its disk before it answers. Half of the jobs use TeaCache. Denoisers"
    " save every {k} steps. Every order was drawn once before anything was hurt; each job's bytes,"
    " latents and steps are compared with those of that twin. Clients ask one gateway after the"
    " other and go on after the last event they have. Who was killed is started again at once, by"
    " the script. Seed {seed}.",
    "{killed} times a process was killed or stopped (for 0.3 to 3 s) and {drained} times a replica"
    " was drained, each kind of process as likely as any other, evenly over the stream, which took"
    " {seconds:.0f} s.",
    "Afterwards: {lost} jobs lost, {duplicated} duplicated, {wrong} with wrong bytes or steps;"
    " left in the ledger, the tensor store, the artifact store and the process table: {left}.",
    "{again} times a denoising loop was begun again elsewhere; then {median} steps were repeated"
    " in the median, {most} at most.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the campaign, and writes its record if it was a whole one.

    Raises:
        SystemExit: something was lost, duplicated, wrong or left.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--drains", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where logs stay")
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ft-") as scratch:
        folder = told.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        plan = _plan(told, folder)
        outcome = asyncio.run(campaign(plan, folder))
    rows = [{"what": what, "times": times} for what, times in sorted(outcome.blows.items())]
    notes = _notes(plan, outcome)
    title = "What faults cost"
    whole = (told.jobs, told.kills, told.drains) == (200, 100, 20) and outcome.is_clean
    print(write("faults", title, rows, notes) if whole else page(title, rows or [_NOTHING], notes))
    if not outcome.is_clean:
        raise SystemExit("\n".join([*outcome.lost, *outcome.wrong, str(outcome.left)]))


_NOTHING: Final[Row] = {"what": "nothing", "times": 0}


def _plan(told: argparse.Namespace, folder: Path) -> Plan:
    models = folder / "models"
    models.mkdir()
    studios = [
        Studio(TEXT, MODEL, encoders=2, denoisers=(1, 1), vaes=2),
        Studio(EDIT, checkpoint(EDIT.name, models), encoders=1, denoisers=(1,), vaes=1),
        # Not beside one of a single rank: what ranks share is rounded otherwise.
        Studio(VIDEO, checkpoint(VIDEO.name, models), encoders=1, denoisers=(2,), vaes=1),
    ]
    # An edit takes a dozen times as long as a text here: it encodes a picture of a megapixel.
    seeds = {TEXT: range(1, 6), EDIT: [1], VIDEO: [1, 2]}
    orders = [order for painter, some in seeds.items() for order in painter.orders(some)]
    return Plan(
        studios,
        orders,
        told.jobs,
        told.at_once,
        told.kills,
        told.drains,
        checkpoint_steps=CHECKPOINT_STEPS,
        seed=told.seed,
    )


def _notes(plan: Plan, outcome: Outcome) -> list[str]:
    repeated = sorted(outcome.repeated) or [0]
    return [
        note.format(
            jobs=plan.jobs,
            at_once=plan.at_once,
            k=plan.checkpoint_steps,
            seed=plan.seed,
            killed=plan.kills,
            drained=plan.drains,
            seconds=outcome.seconds,
            lost=len(outcome.lost),
            duplicated=outcome.duplicated,
            wrong=len(outcome.wrong),
            left=outcome.left or "nothing",
            again=len(outcome.repeated),
            median=repeated[len(repeated) // 2],
            most=repeated[-1],
        )
        for note in NOTES
    ]


if __name__ == "__main__":
    main()
