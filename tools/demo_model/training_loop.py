"""The loop that every phase of training runs: loss, step, log, checkpoint."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tools.demo_model.masters import Masters, Schedule

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """How long to train, how fast, and where the state lives.

    Attributes:
        checkpoint: The state's file; training resumes from it when it exists.
        steps: Steps of the phase; with `minutes`, the most it may take.
        schedule: The learning rate over the phase.
        minutes: When given, progress follows the clock, so that the learning rate reaches its
            floor in time however busy the machine is. Such a run cannot be repeated to the bit.
        save_every: Steps between checkpoints.
    """

    checkpoint: Path
    steps: int
    schedule: Schedule
    minutes: float | None = None
    save_every: int = 250

    def progress(self, steps: int, seconds: float) -> float:
        """Share of the phase that is over after so many steps and seconds."""
        by_clock = seconds / (60.0 * self.minutes) if self.minutes else 0.0
        return max(steps / self.steps, by_clock)


class RecentLoss:
    """Mean of the last hundred losses."""

    def __init__(self) -> None:
        self._losses: list[float] = []

    def add(self, loss: float) -> None:
        """Takes one more loss.

        Raises:
            FloatingPointError: The loss is not a number any more.
        """
        if not math.isfinite(loss):
            raise FloatingPointError("the loss is not finite")
        self._losses = [*self._losses[-99:], loss]

    def __str__(self) -> str:
        return f"{sum(self._losses) / max(1, len(self._losses)):.4f}"


def run_phase(phase: Phase, masters: Masters, loss_of: Callable[[int], Tensor], rank: int) -> None:
    """Trains to the end of the phase in one rank; rank 0 reports and writes checkpoints.

    Args:
        phase: What to do.
        masters: The state that is trained.
        loss_of: Computes the loss of a step from nothing but the step's number and the rank.
        rank: This process among those of the phase.
    """
    step, spent, progress = 0, 0.0, 0.0
    if phase.checkpoint.exists():
        notes = masters.load(phase.checkpoint)
        step, spent, progress = (
            int(notes["step"]),
            float(notes["seconds"]),
            float(notes["progress"]),
        )
    began = time.monotonic() - spent
    recent = RecentLoss()
    while progress < 1.0:
        loss = loss_of(step)
        torch.autograd.backward(loss)
        recent.add(float(loss.detach()))
        seconds = time.monotonic() - began
        rate = phase.schedule.rate(step, progress)
        step += 1
        # All ranks take rank 0's word for the progress, and so stop at the same step.
        progress = masters.step(rate, phase.progress(step, seconds))
        if rank != 0:
            continue
        if step % 25 == 0:
            logger.info("step %d (%.0f%%), loss %s, %.0f s", step, 100 * progress, recent, seconds)
        if progress >= 1.0 or step % phase.save_every == 0:
            notes = {"step": str(step), "seconds": f"{seconds:.1f}", "progress": repr(progress)}
            masters.save(phase.checkpoint, notes | {"loss": str(recent)})
