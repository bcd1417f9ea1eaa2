"""What happens to a job, as its client sees it."""

from dataclasses import dataclass

from services.domain.stages import (
    Artifact,
    CacheStatistics,
    PreviewPicture,
    StageTask,
    StageTiming,
    StepCompleted,
)
from triptych.domain.conditioning_reuse import ConditioningReuse
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Stage
from triptych.domain.parallel import ONE_RANK, ParallelDegrees


@dataclass(frozen=True, slots=True)
class JobAccepted:
    """The request is valid and was taken in."""

    parameters: GenerationParameters


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage began to work for the job."""

    stage: Stage
    task: StageTask


@dataclass(frozen=True, slots=True)
class StageCompleted:
    """A stage is done with the job."""

    timing: StageTiming


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture of what the loop was heading for after a step; it may come late, or never."""

    step: int
    picture: PreviewPicture


@dataclass(frozen=True, slots=True)
class ArtifactChunk:
    """A run of an artifact's bytes; the first one of each artifact describes it."""

    artifact: Artifact | None
    offset_bytes: int
    data: bytes


@dataclass(frozen=True, slots=True)
class JobCompleted:
    """The job succeeded.

    Attributes:
        cache_statistics: what the request's cache did; None without one.
        degrees: how its steps were spread over ranks.
        written_prompt: what a language model made of the prompt, if it was asked to.
        conditioning_reuse: what was looked up in a conditioning cache, one of each kind; empty
            without one.
    """

    parameters: GenerationParameters
    artifacts: tuple[Artifact, ...]
    stage_timings: tuple[StageTiming, ...]
    latents_checksum_xxh3: int
    total_seconds: float
    written_prompt: str | None = None
    cache_statistics: CacheStatistics | None = None
    degrees: ParallelDegrees = ONE_RANK
    conditioning_reuse: tuple[ConditioningReuse, ...] = ()


JobEvent = (
    JobAccepted
    | StageStarted
    | StepCompleted
    | Preview
    | StageCompleted
    | ArtifactChunk
    | JobCompleted
)
