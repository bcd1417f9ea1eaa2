"""The nouns that clients and services share, each against its message."""

from functools import partial
from typing import Any, Final

from google.protobuf.message import Message

from triptych.codec.choice import Choice
from triptych.codec.finite import infinite_numbers
from triptych.codec.table import At, Table
from triptych.codec.values import Reading
from triptych.domain.acceleration import (
    CacheDit,
    CacheSupport,
    MaskPolicy,
    NoCache,
    ReusePolicy,
    TeaCache,
)
from triptych.domain.cache_statistics import BranchDecision, BranchStatistics, CacheStatistics
from triptych.domain.conditioning_reuse import ConditioningReuse
from triptych.domain.errors import FieldViolation
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
from triptych.domain.family_options import (
    BagelOptions,
    FluxOptions,
    LayeredOptions,
    LongCatOptions,
    OptionLimits,
    VideoOptions,
)
from triptych.domain.generation import GenerationParameters, GenerationRequest
from triptych.domain.generation_result import Artifact, GenerationResult
from triptych.domain.image_fit import ImageFit
from triptych.domain.input_image import ImageDescription, UploadedImage
from triptych.domain.job import Job, JobPage, JobQuery, Scheduling
from triptych.domain.model import Capabilities, GenerationDefaults, ModelInfo
from triptych.domain.output_options import OutputOptions
from triptych.domain.parallel import ParallelDegrees, ParallelSupport
from triptych.domain.receipt import Fingerprint, Receipt, SoftwareVersion
from triptych.domain.stage_timing import StageTiming
from triptych.v1 import (
    acceleration_pb2,
    capabilities_pb2,
    generation_pb2,
    generation_service_pb2,
    job_pb2,
)

_DECISIONS: Final = {False: "CACHE_DECISION_COMPUTED", True: "CACHE_DECISION_REUSED"}
_REST: Final = {"*": "other nouns have the rest"}
_REPLICA_CLASS: Final = {"acceleration.replica_class": "refused: there is one class"}


class _EffectiveTable(Table[GenerationParameters, generation_pb2.GenerationParameters]):
    """Values that a denoiser tells its ranks in JSON, which has no words for some numbers."""

    def take(self, message: Message, path: str, reading: Reading) -> Any:
        """The noun; refuses numbers that are not finite."""
        if reading.strict:
            reading.violations.extend(infinite_numbers(message, path))
        return super().take(message, path, reading)


Table(NoCache, acceleration_pb2.NoCache)
Table(TeaCache, acceleration_pb2.TeaCache)
Table(
    CacheDit,
    acceleration_pb2.CacheDit,
    at={
        # The first order is the library's default, too.
        "taylorseer_order": At("taylorseer.order", present=1),
        "scm_mask_policy": At("scm.mask_policy", present=MaskPolicy.MEDIUM),
        "scm_policy": At(
            "scm.policy",
            present=ReusePolicy.DYNAMIC,
            only_with="scm_mask_policy",
            otherwise="has no effect without a mask policy",
        ),
    },
)
Table(VideoOptions, generation_pb2.VideoOptions)
Table(LayeredOptions, generation_pb2.LayeredOptions)
Table(LongCatOptions, generation_pb2.LongCatOptions)
Table(BagelOptions, generation_pb2.BagelOptions)
Table(FluxOptions, generation_pb2.FluxOptions)

Table(OutputOptions, generation_pb2.OutputOptions)

IMAGES: Final = Table(
    ImageDescription,
    generation_pb2.InputImage,
    inside="description",
    untold={
        "data": "the bytes travel apart from the noun",
        "upload_id": "the bytes are looked up before there is a noun",
    },
)
REQUESTS: Final = Table(
    GenerationRequest,
    generation_pb2.GenerationParameters,
    at={"cache": "acceleration.cache", "options": "family_options"},
    apart={"images": "each is written and read with its bytes"},
    untold={"images": "each is written and read with its bytes", **_REPLICA_CLASS},
)
PARAMETERS: Final = _EffectiveTable(
    GenerationParameters,
    generation_pb2.GenerationParameters,
    at={"cache": "acceleration.cache", "options": "family_options"},
    untold=_REPLICA_CLASS,
)

TIMINGS: Final = Table(StageTiming, generation_pb2.StageTiming)
REUSES: Final = Table(ConditioningReuse, generation_pb2.ConditioningReuse)
DEGREES: Final = Table(
    ParallelDegrees,
    acceleration_pb2.ParallelDegrees,
    at={"ulysses": "ulysses_degree", "ring": "ring_degree", "cfg": "cfg_degree"},
)
Table(
    BranchDecision,
    acceleration_pb2.BranchDecision,
    at={"reused": At("decision", words=_DECISIONS)},
)
Table(BranchStatistics, acceleration_pb2.BranchStatistics)
STATISTICS: Final = Table(
    CacheStatistics,
    acceleration_pb2.CacheStatistics,
    derived=("computed_forwards", "reused_forwards"),
)
ARTIFACTS: Final = Table(Artifact, generation_pb2.Artifact)
STARTED: Final = Table(StageStarted, job_pb2.StageStarted)
STEPS: Final = Table(StepCompleted, job_pb2.StepCompleted, at={"decisions": "cache_decisions"})
Table(Fingerprint, generation_pb2.Fingerprint)
Table(SoftwareVersion, generation_pb2.SoftwareVersion)
Table(Receipt, generation_pb2.Receipt)
RESULTS: Final = Table(GenerationResult, generation_pb2.GenerationResult)
Table(FieldViolation, job_pb2.FieldViolation)
FAILURES: Final = Table(
    Failure,
    job_pb2.JobFailed,
    apart={"foreign": "only the answer to a call is"},
)

JOB_EVENTS: Final = Choice(
    job_pb2.JobEvent,
    "event",
    {
        "accepted": Table(
            Accepted,
            job_pb2.JobAccepted,
            apart={"job_id": "it stands beside every event"},
            build=partial(Accepted, ""),
        ),
        "queued": Table(Queued, job_pb2.JobQueued),
        "stage_started": STARTED,
        "step_completed": STEPS,
        "stage_completed": Table(StageCompleted, job_pb2.StageCompleted),
        "preview": Table(Preview, job_pb2.Preview),
        "completed": Table(GenerationResult, job_pb2.JobCompleted, inside="result"),
        "checkpoint_saved": Table(CheckpointSaved, job_pb2.CheckpointSaved),
        "failed": FAILURES,
        "cancelled": Table(JobCancelled, job_pb2.JobCancelled),
    },
    {},
)
SCHEDULINGS: Final = Table(Scheduling, job_pb2.SchedulingOptions)
JOBS: Final = Table(Job, job_pb2.Job)
JOB_QUERIES: Final = Table(JobQuery, generation_service_pb2.ListJobsRequest)
JOB_PAGES: Final = Table(JobPage, generation_service_pb2.ListJobsResponse)
UPLOADED_IMAGES: Final = Table(UploadedImage, generation_service_pb2.UploadImageResponse)

Table(ImageFit, capabilities_pb2.ImageFit)
Table(OptionLimits, capabilities_pb2.OptionLimits, at={"name": "field", "default": "default_value"})
Table(
    GenerationDefaults,
    capabilities_pb2.GenerationDefaults,
    at={"cache": "acceleration.cache", "cache_min_steps": "acceleration_min_steps"},
    untold=_REPLICA_CLASS,
)
Table(
    CacheSupport,
    capabilities_pb2.Capabilities,
    at={
        "methods": "cache_methods",
        "blocks": "cacheable_blocks",
        "coefficients_source": At(
            "tea_cache_coefficients_source", only_with="tea_cache_coefficients"
        ),
    },
    untold=_REST,
)
Table(
    ParallelSupport,
    capabilities_pb2.Capabilities,
    at={"methods": "parallel_methods"},
    untold=_REST,
)
Table(Capabilities, capabilities_pb2.Capabilities)
MODELS: Final = Table(ModelInfo, capabilities_pb2.Model)
