"""What happens to a request, in the order it happens."""

import os
from dataclasses import dataclass
from pathlib import Path

from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask, StageTiming
from triptych.whole_file import write_whole


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request is valid and was taken in; `parameters` are the effective ones."""

    job_id: str
    parameters: GenerationParameters


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits behind `position` others."""

    position: int
    estimated_wait_seconds: float


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage began to work."""

    stage: Stage
    task: StageTask


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """One denoising step is done.

    Attributes:
        step: 1 to total_steps.
        sigma: the noise level the step started from.
        decisions: of the request's cache, branch by branch; empty without one.
        image_index: which of the request's results it is a step of.
    """

    step: int
    total_steps: int
    sigma: float
    seconds: float
    decisions: tuple[BranchDecision, ...] = ()
    image_index: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture of what the request is heading for; of layers, all of them side by side.

    It is drawn beside the loop, so it may come after later steps, and some are skipped.

    Attributes:
        step: after which it was, 1 to the step event's total_steps.
        data: PNG bytes.
        width: in pixels.
        height: in pixels.
        image_index: which of the request's results it is of.
    """

    step: int
    data: bytes
    width: int
    height: int
    image_index: int = 0

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes `data`: whole or not at all, and nobody ever reads half of it.

        Raises:
            OSError: the file cannot be written; what was there before is still there.
        """
        return write_whole(path, self.data)


@dataclass(frozen=True, slots=True)
class StageCompleted:
    """A stage is done."""

    timing: StageTiming


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """The request can go on from here, elsewhere if it has to.

    Attributes:
        step: the last one that need not be repeated.
    """

    step: int


@dataclass(frozen=True, slots=True)
class JobCancelled:
    """The request was cancelled; always the last event."""

    completed_steps: int
