"""Client of a Triptych cluster.

```python
from triptych import Client

with Client("127.0.0.1:7843") as client:
    client.generate("a red circle on a blue background").save("circle.png")
```

Importing this package is cheap: gRPC is loaded when a name that needs it is used first.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triptych.aio import AsyncClient
    from triptych.channel import tls_credentials
    from triptych.client import Client
    from triptych.domain.acceleration import CacheDit, NoCache, TeaCache
    from triptych.domain.cache_statistics import BranchDecision, BranchStatistics, CacheStatistics
    from triptych.domain.conditioning_reuse import ConditioningReuse
    from triptych.domain.errors import FieldViolation
    from triptych.domain.events import (
        Accepted,
        CheckpointSaved,
        Preview,
        Queued,
        StageCompleted,
        StageStarted,
        StepCompleted,
    )
    from triptych.domain.failure import Failure
    from triptych.domain.family_options import (
        BagelOptions,
        FluxOptions,
        LayeredOptions,
        LongCatOptions,
        VideoOptions,
    )
    from triptych.domain.generation import GenerationParameters, GenerationRequest
    from triptych.domain.generation_result import Artifact, GenerationResult
    from triptych.domain.input_image import ImageDescription, UploadedImage
    from triptych.domain.job import Job, JobState, Priority, Scheduling
    from triptych.domain.model import ModelInfo
    from triptych.domain.output_options import OutputOptions
    from triptych.domain.parallel import ParallelDegrees
    from triptych.domain.stage_timing import StageTiming
    from triptych.download import Download
    from triptych.errors import (
        AlreadyExistsError,
        ArtifactCorruptedError,
        CancelledError,
        DeadlineExceededError,
        InternalError,
        InvalidRequestError,
        ModelNotFoundError,
        NotFoundError,
        OutOfRangeError,
        ResourceExhaustedError,
        TriptychError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
    )
    from triptych.events import Completed, Event
    from triptych.generation import Generation

__version__ = "0.1.0"

__all__ = [
    "Accepted",
    "AlreadyExistsError",
    "Artifact",
    "ArtifactCorruptedError",
    "AsyncClient",
    "BagelOptions",
    "BranchDecision",
    "BranchStatistics",
    "CacheDit",
    "CacheStatistics",
    "CancelledError",
    "CheckpointSaved",
    "Client",
    "Completed",
    "ConditioningReuse",
    "DeadlineExceededError",
    "Download",
    "Event",
    "Failure",
    "FieldViolation",
    "FluxOptions",
    "Generation",
    "GenerationParameters",
    "GenerationRequest",
    "GenerationResult",
    "ImageDescription",
    "InternalError",
    "InvalidRequestError",
    "Job",
    "JobState",
    "LayeredOptions",
    "LongCatOptions",
    "ModelInfo",
    "ModelNotFoundError",
    "NoCache",
    "NotFoundError",
    "OutOfRangeError",
    "OutputOptions",
    "ParallelDegrees",
    "Preview",
    "Priority",
    "Queued",
    "ResourceExhaustedError",
    "Scheduling",
    "StageCompleted",
    "StageStarted",
    "StageTiming",
    "StepCompleted",
    "TeaCache",
    "TriptychError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UploadedImage",
    "VideoOptions",
    "tls_credentials",
]

# Those that load least come first: a noun costs no gRPC.
_HOMES = (
    "domain.acceleration",
    "domain.cache_statistics",
    "domain.conditioning_reuse",
    "domain.failure",
    "domain.family_options",
    "domain.input_image",
    "domain.model",
    "domain.output_options",
    "domain.parallel",
    "domain.stage_timing",
    "domain.generation",
    "domain.generation_result",
    "domain.job",
    "domain.events",
    "errors",
    "generation",
    "download",
    "events",
    "channel",
    "client",
    "aio",
)


def __getattr__(name: str) -> object:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"triptych.{home}")
            if name in vars(module):
                return getattr(module, name)
    raise AttributeError(f"module 'triptych' has no attribute {name!r}")
