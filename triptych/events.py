"""What a caller is told of a request, in the order it happens."""

from dataclasses import dataclass

from triptych.domain.events import (
    Accepted,
    CheckpointSaved,
    Preview,
    Queued,
    StageCompleted,
    StageStarted,
    StepCompleted,
)
from triptych.generation import Generation


@dataclass(frozen=True, slots=True)
class Completed:
    """The request is done; always the last event."""

    generation: Generation


Event = (
    Accepted
    | Queued
    | StageStarted
    | StepCompleted
    | Preview
    | CheckpointSaved
    | StageCompleted
    | Completed
)
