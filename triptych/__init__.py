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
    from triptych.cache import (
        BranchDecision,
        BranchStatistics,
        CacheDit,
        CacheStatistics,
        NoCache,
        TeaCache,
    )
    from triptych.channel import tls_credentials
    from triptych.client import Client
    from triptych.conditioning_reuse import ConditioningReuse
    from triptych.errors import (
        ArtifactCorruptedError,
        CancelledError,
        DeadlineExceededError,
        InternalError,
        InvalidRequestError,
        ModelNotFoundError,
        NotFoundError,
        ResourceExhaustedError,
        TriptychError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
    )
    from triptych.events import (
        Accepted,
        Completed,
        Event,
        Preview,
        Queued,
        StageCompleted,
        StageStarted,
        StepCompleted,
    )
    from triptych.family_options import (
        BagelOptions,
        FluxOptions,
        LayeredOptions,
        LongCatOptions,
        VideoOptions,
    )
    from triptych.generation import Generation, GenerationParameters, StageTiming
    from triptych.input_image import ImageDescription, UploadedImage
    from triptych.model_info import ModelInfo
    from triptych.parallel import ParallelDegrees
    from triptych.request import GenerationRequest
    from triptych.status import Failure, FieldViolation

__version__ = "0.1.0"

__all__ = [
    "Accepted",
    "ArtifactCorruptedError",
    "AsyncClient",
    "BagelOptions",
    "BranchDecision",
    "BranchStatistics",
    "CacheDit",
    "CacheStatistics",
    "CancelledError",
    "Client",
    "Completed",
    "ConditioningReuse",
    "DeadlineExceededError",
    "Event",
    "Failure",
    "FieldViolation",
    "FluxOptions",
    "Generation",
    "GenerationParameters",
    "GenerationRequest",
    "ImageDescription",
    "InternalError",
    "InvalidRequestError",
    "LayeredOptions",
    "LongCatOptions",
    "ModelInfo",
    "ModelNotFoundError",
    "NoCache",
    "NotFoundError",
    "ParallelDegrees",
    "Preview",
    "Queued",
    "ResourceExhaustedError",
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

_HOMES = (
    "aio",
    "cache",
    "channel",
    "client",
    "conditioning_reuse",
    "errors",
    "events",
    "family_options",
    "generation",
    "input_image",
    "model_info",
    "parallel",
    "request",
    "status",
)


def __getattr__(name: str) -> object:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"triptych.{home}")
            if name in vars(module):
                return getattr(module, name)
    raise AttributeError(f"module 'triptych' has no attribute {name!r}")
