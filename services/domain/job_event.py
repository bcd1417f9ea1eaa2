"""What happens to a job, as its client sees it."""

from dataclasses import dataclass

from triptych.domain.events import (
    Accepted,
    CheckpointSaved,
    JobCancelled,
    Preview,
    Queued,
    StageCompleted,
    StageStarted,
    StepCompleted,
)
from triptych.domain.failure import Failure
from triptych.domain.generation_result import Artifact, GenerationResult


@dataclass(frozen=True, slots=True)
class ArtifactChunk:
    """A run of an artifact's bytes; the first one of each artifact describes it."""

    artifact: Artifact | None
    offset_bytes: int
    data: bytes


JobEvent = (
    Accepted
    | Queued
    | StageStarted
    | StepCompleted
    | Preview
    | CheckpointSaved
    | StageCompleted
    | ArtifactChunk
    | GenerationResult
    | Failure
    | JobCancelled
)
