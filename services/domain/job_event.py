"""What happens to a job, as its client sees it."""

from dataclasses import dataclass

from triptych.domain.events import (
    Accepted,
    Preview,
    StageCompleted,
    StageStarted,
    StepCompleted,
)
from triptych.domain.generation_result import Artifact, GenerationResult


@dataclass(frozen=True, slots=True)
class ArtifactChunk:
    """A run of an artifact's bytes; the first one of each artifact describes it."""

    artifact: Artifact | None
    offset_bytes: int
    data: bytes


JobEvent = (
    Accepted
    | StageStarted
    | StepCompleted
    | Preview
    | StageCompleted
    | ArtifactChunk
    | GenerationResult
)
