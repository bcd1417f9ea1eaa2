"""What happens to a request, in the order it happens."""

from dataclasses import dataclass

from triptych.cache import BranchDecision
from triptych.generation import Generation, GenerationParameters, StageTiming


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
    """A stage began to work.

    Attributes:
        stage: "encoder", "denoiser" or "vae".
        task: "encode_prompt", "encode_images", "denoise" or "decode".
    """

    stage: str
    task: str


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """One denoising step is done.

    Attributes:
        step: 1 to total_steps.
        sigma: the noise level the step started from.
        decisions: of the request's cache, branch by branch; empty without one.
    """

    step: int
    total_steps: int
    sigma: float
    seconds: float
    decisions: tuple[BranchDecision, ...] = ()


@dataclass(frozen=True, slots=True)
class StageCompleted:
    """A stage is done."""

    timing: StageTiming


@dataclass(frozen=True, slots=True)
class Completed:
    """The request is done; always the last event."""

    generation: Generation


Event = Accepted | Queued | StageStarted | StepCompleted | StageCompleted | Completed
