"""What the stages take and give, and how the gateway sees them.

A stage may be in another process (services.rpc.stage_clients) or in this one (services.fused):
the gateway cannot tell. Every method may raise any TriptychError.

The attempt of a request is the fencing token of the claim under which a job is worked on. A stage
ends what it does for a job's earlier attempts when a later one comes, and refuses those that come
after it: both get Superseded. Calls without an attempt, 0, are not fenced. Whatever a call ends
with, its stage releases nothing but what that call stored, and not the last checkpoint it told.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from services.domain.checkpoint import Checkpoint
from services.domain.tensor_ref import TensorRef
from triptych.domain.cache_statistics import CacheStatistics
from triptych.domain.conditioning_reuse import ConditioningReuse
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest
from triptych.domain.events import StepCompleted
from triptych.domain.generation import GenerationParameters
from triptych.domain.generation_result import Artifact
from triptych.domain.model import LoadedModel, Stage
from triptych.domain.parallel import ONE_RANK, ParallelDegrees
from triptych.domain.receipt import SoftwareVersion
from triptych.domain.stage_timing import StageTiming


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """Asks for the conditioning of a request.

    Attributes:
        images: the encoded bytes of parameters.images.
    """

    request_id: str
    tenant: str
    parameters: GenerationParameters
    images: tuple[bytes, ...] = ()
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """The conditioning, for the caller to release.

    Attributes:
        written_prompt: what a language model made of the prompt, if it was asked to.
        conditioning_reuse: what was looked up in a cache; empty without one.
    """

    conditioning: TensorRef
    timing: StageTiming
    written_prompt: str | None = None
    conditioning_reuse: tuple[ConditioningReuse, ...] = ()


@dataclass(frozen=True, slots=True)
class EncodeImageRequest:
    """Asks for the latents of an input image.

    Attributes:
        index: which of parameters.images it is.
        image: its encoded bytes.
    """

    request_id: str
    tenant: str
    parameters: GenerationParameters
    index: int
    image: bytes
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The latents of an input image, for the caller to release.

    Attributes:
        conditioning_reuse: what was looked up in a cache; empty without one.
    """

    latents: TensorRef
    timing: StageTiming
    conditioning_reuse: tuple[ConditioningReuse, ...] = ()


@dataclass(frozen=True, slots=True)
class DenoiseRequest:
    """Asks for latents under a conditioning.

    Attributes:
        image_latents: of parameters.images, in their order.
        image_index: which of the request's results; each takes a place in the step loop.
        resume_from: the last checkpoint that an earlier call told, of this denoiser or of another
            one; None to begin. One that cannot be read costs its steps and not the request.
        can_hand_over: whether the caller can have another denoiser go on, should this one be
            drained: it is then told a checkpoint, and the call ends with HandedOver.
    """

    request_id: str
    tenant: str
    parameters: GenerationParameters
    conditioning: TensorRef
    image_latents: tuple[TensorRef, ...] = ()
    image_index: int = 0
    attempt: int = 0
    resume_from: Checkpoint | None = None
    can_hand_over: bool = False

    @property
    def place(self) -> str:
        """What the step loop and its ranks call it: the request's id, if it has one result."""
        return f"{self.request_id}.{self.image_index}" if self.image_index else self.request_id

    def check_images(self) -> None:
        """Raises InvalidRequest unless there are latents of each image."""
        given, wanted = len(self.image_latents), len(self.parameters.images)
        if given != wanted:
            raise InvalidRequest.of(
                "image_latents", f"are {given}; the request has {wanted} images"
            )


@dataclass(frozen=True, slots=True)
class DenoiseStarted:
    """The request left the queue."""


@dataclass(frozen=True, slots=True)
class PreviewLatents:
    """What the loop was heading for after a step, in the form of finished latents.

    Whoever draws it releases it. Of one request only the last few are kept.
    """

    step: int
    latents: TensorRef


@dataclass(frozen=True, slots=True)
class Denoised:
    """The latents, for the caller to release.

    Attributes:
        latents_checksum_xxh3: XXH3-64 of the latents' bytes alone.
        cache_statistics: of all steps, those before the call among them; None without a cache.
        degrees: how its steps were spread over ranks.
    """

    latents: TensorRef
    latents_checksum_xxh3: int
    timing: StageTiming
    cache_statistics: CacheStatistics | None = None
    degrees: ParallelDegrees = ONE_RANK


DenoiseEvent = DenoiseStarted | StepCompleted | PreviewLatents | Checkpoint | Denoised


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """Asks for the media of latents."""

    request_id: str
    tenant: str
    parameters: GenerationParameters
    latents: TensorRef
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class MediaChunk:
    """A run of the artifact's bytes, in order."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Decoded:
    """The artifact is complete."""

    timing: StageTiming


DecodeEvent = Artifact | MediaChunk | Decoded


@dataclass(frozen=True, slots=True)
class DrawPreviewRequest:
    """Asks for a small picture of latents that are not finished, and for their release."""

    request_id: str
    tenant: str
    parameters: GenerationParameters
    latents: TensorRef
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class PreviewPicture:
    """PNG bytes, and the picture's size in pixels."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class RankGroupInfo:
    """The processes that run the denoising loop together.

    Attributes:
        generation: counts rebuilds after a rank died.
        completed_steps: since the replica started, all requests together.
        degrees: how they share steps.
        held_bytes: what each rank keeps of all requests between two steps, as measured.
        reserved_bytes: what it keeps of them at most, as estimated before they began.
        max_resident_bytes: up to where requests are let in by those; None for no limit.
        backlog_seconds: estimated for all steps that are left, of resident and waiting requests.
    """

    ranks: int
    generation: int
    completed_steps: int
    degrees: ParallelDegrees = ONE_RANK
    held_bytes: int = 0
    reserved_bytes: int = 0
    max_resident_bytes: int | None = None
    backlog_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a replica holds and how busy it is; see protos/triptych/v1/stage_service.proto."""

    stage: Stage
    instance_id: str
    models: tuple[LoadedModel, ...]
    tensor_store: str
    running_requests: int
    queued_requests: int
    max_queued_requests: int
    draining: bool
    loading: bool = False
    rank_group: RankGroupInfo | None = None
    versions: tuple[SoftwareVersion, ...] = ()


class Replica(Protocol):
    """What every stage can be asked, whichever it is."""

    async def capacity(self, deadline: Deadline) -> Capacity:
        """What it holds and how busy it is."""
        ...

    async def release(self, tenant: str, request_id: str, deadline: Deadline) -> int:
        """Releases all a request stored, whichever stage wrote it; returns how many sets."""
        ...


class Encoder(Replica, Protocol):
    """Prompts to conditioning."""

    async def encode(self, request: EncodeRequest, deadline: Deadline) -> Encoded:
        """Encodes and stores."""
        ...


class Denoiser(Replica, Protocol):
    """The denoising loop."""

    def denoise(
        self, request: DenoiseRequest, deadline: Deadline
    ) -> AsyncGenerator[DenoiseEvent, None]:
        """Yields DenoiseStarted, a StepCompleted per step, then Denoised. Closing it cancels.

        A PreviewLatents follows its step's event, if the request asks for previews. A Checkpoint
        comes when the request was saved, some steps after it. Of a request that is resumed, the
        steps after its checkpoint alone come.
        """
        ...


class Vae(Replica, Protocol):
    """Pictures to latents, and latents to media."""

    async def encode_image(self, request: EncodeImageRequest, deadline: Deadline) -> EncodedImage:
        """Encodes one input image and stores its latents."""
        ...

    def decode(
        self, request: DecodeRequest, deadline: Deadline
    ) -> AsyncGenerator[DecodeEvent, None]:
        """Yields the Artifact, its MediaChunks, then Decoded. Closing it cancels."""
        ...

    async def draw_preview(self, request: DrawPreviewRequest, deadline: Deadline) -> PreviewPicture:
        """Draws by a linear map, beside whatever is being encoded or decoded."""
        ...
