"""Stages of this process that store nothing and do what a test says."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace

from services.domain.checkpoint import Checkpoint, CheckpointPart
from services.domain.stages import (
    Capacity,
    Decoded,
    DecodeEvent,
    DecodeRequest,
    Denoised,
    DenoiseEvent,
    DenoiseRequest,
    DenoiseStarted,
    DrawPreviewRequest,
    Encoded,
    EncodedImage,
    EncodeImageRequest,
    EncodeRequest,
    MediaChunk,
    PreviewLatents,
    PreviewPicture,
)
from tests.unit.domain.examples import ARTIFACT, TENSOR_REF, capacity, timing
from triptych.domain.conditioning_reuse import ConditioningReuse
from triptych.domain.deadline import Deadline
from triptych.domain.errors import StageUnavailable
from triptych.domain.events import StepCompleted
from triptych.domain.model import Capabilities, Stage
from triptych.domain.stage_timing import StageTask

CONDITIONING = TENSOR_REF.model_copy(update={"key": "1" * 32})
LATENTS = TENSOR_REF.model_copy(update={"key": "2" * 32})
IMAGE_LATENTS = [TENSOR_REF.model_copy(update={"key": str(each) * 32}) for each in (3, 4)]
MEDIA = (b"abcd", b"ef")
SAVED = Checkpoint(1, (CheckpointPart(0, TENSOR_REF.model_copy(update={"key": "8" * 32})),))
PREVIEWS = {each: TENSOR_REF.model_copy(update={"key": f"{each:x}" * 32}) for each in (5, 6, 7)}
PICTURE = PreviewPicture(b"a picture", 16, 8)


class ScriptedStage:
    """What every stage does.

    Attributes:
        fails: raised in the middle of its work.
        refuses: raised before its work.
        waits: whether its work stops in the middle, for ever.
        may_go_on: while it is not set, its work stops in the middle.
        releases: what it was asked to release, as (tenant, request id).
        reached, stopped, refused, release_asked: set when its work is in the middle, when it has
            left it or refused it, and when something is to be released.
        running: how many of its calls are under way.
        capacity_now: its report; None while it is down.
    """

    def __init__(self, stage: Stage, models: Sequence[str] = ("painter",)) -> None:
        self.fails: BaseException | None = None
        self._fails_once: BaseException | None = None
        self.refuses: BaseException | None = None
        self.waits = False
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.reached = asyncio.Event()
        self.stopped = asyncio.Event()
        self.refused = asyncio.Event()
        self.release_asked = asyncio.Event()
        self.release_fails: BaseException | None = None
        self.may_release = asyncio.Event()
        self.may_release.set()
        self.releases: list[tuple[str, str]] = []
        self.running = 0
        self.deadlines: list[Deadline] = []
        self.capacity_now: Capacity | None = capacity(stage, *models)
        self.capacity_fails: BaseException = StageUnavailable(f"the {stage} is down")

    async def capacity(self, deadline: Deadline) -> Capacity:
        if self.capacity_now is None:
            raise self.capacity_fails
        return self.capacity_now

    async def release(self, tenant: str, request_id: str, deadline: Deadline) -> int:
        self.releases.append((tenant, request_id))
        self.release_asked.set()
        await self.may_release.wait()
        if self.release_fails is not None:
            raise self.release_fails
        return 1

    def fails_once(self, error: BaseException) -> None:
        """Lets its next work fail in the middle."""
        self._fails_once = error

    def _admit(self) -> None:
        if self.refuses is not None:
            self.refused.set()
            raise self.refuses

    async def _middle(self, deadline: Deadline) -> None:
        self.deadlines.append(deadline)
        self.running += 1
        self.reached.set()
        try:
            if self.waits:
                await asyncio.Event().wait()
            await self.may_go_on.wait()
            if self._fails_once is not None:
                error, self._fails_once = self._fails_once, None
                raise error
            if self.fails is not None:
                raise self.fails
        finally:
            self.running -= 1
            self.stopped.set()


class ScriptedEncoder(ScriptedStage):
    """Prompts to nothing."""

    def __init__(self, *models: str) -> None:
        super().__init__(Stage.ENCODER, models or ("painter",))
        self.requests: list[EncodeRequest] = []
        self.written_prompt: str | None = None
        self.conditioning_reuse: tuple[ConditioningReuse, ...] = ()

    async def encode(self, request: EncodeRequest, deadline: Deadline) -> Encoded:
        self.requests.append(request)
        self._admit()
        await self._middle(deadline)
        return Encoded(
            CONDITIONING, timing(Stage.ENCODER), self.written_prompt, self.conditioning_reuse
        )


class ScriptedDenoiser(ScriptedStage):
    """Two steps of nothing."""

    def __init__(self, *models: str) -> None:
        super().__init__(Stage.DENOISER, models or ("painter",))
        self.requests: list[DenoiseRequest] = []
        self.ends_early = False
        self.previews: Sequence[PreviewLatents] = ()
        self.checkpoint: Checkpoint | None = None
        # Those after the first.
        self.may_show = asyncio.Event()
        self.may_show.set()

    async def denoise(
        self, request: DenoiseRequest, deadline: Deadline
    ) -> AsyncGenerator[DenoiseEvent, None]:
        self.requests.append(request)
        self._admit()
        yield DenoiseStarted()
        if request.resume_from is None:
            yield StepCompleted(1, 2, 1.0, 0.5)
            if self.checkpoint is not None:
                yield self.checkpoint
        for each in self.previews:
            yield each
            await self.may_show.wait()
        await self._middle(deadline)
        yield StepCompleted(2, 2, 0.5, 0.5)
        if not self.ends_early:
            yield Denoised(LATENTS, 77, timing(Stage.DENOISER))


class ScriptedVae(ScriptedStage):
    """Nothing to six bytes."""

    def __init__(self, *models: str) -> None:
        super().__init__(Stage.VAE, models or ("painter",))
        self.requests: list[DecodeRequest] = []
        self.image_requests: list[EncodeImageRequest] = []
        self.conditioning_reuse: tuple[ConditioningReuse, ...] = ()
        self.artifact_id: str | None = ARTIFACT.artifact_id
        self.media: tuple[bytes, ...] = MEDIA
        self.preview_requests: list[DrawPreviewRequest] = []
        self.on_preview: Callable[[DrawPreviewRequest], Awaitable[None]] = _at_once

    async def encode_image(self, request: EncodeImageRequest, deadline: Deadline) -> EncodedImage:
        self.image_requests.append(request)
        self._admit()
        await self._middle(deadline)
        return EncodedImage(
            IMAGE_LATENTS[request.index],
            timing(Stage.VAE, StageTask.ENCODE_IMAGES),
            self.conditioning_reuse,
        )

    async def decode(
        self, request: DecodeRequest, deadline: Deadline
    ) -> AsyncGenerator[DecodeEvent, None]:
        self.requests.append(request)
        self._admit()
        yield replace(ARTIFACT, artifact_id=self.artifact_id or request.request_id)
        yield MediaChunk(self.media[0])
        await self._middle(deadline)
        for each in self.media[1:]:
            yield MediaChunk(each)
        yield Decoded(timing(Stage.VAE))

    async def draw_preview(self, request: DrawPreviewRequest, deadline: Deadline) -> PreviewPicture:
        self.preview_requests.append(request)
        await self.on_preview(request)
        return PICTURE


async def _at_once(request: DrawPreviewRequest) -> None:
    pass


class ScriptedCluster:
    """One replica of each stage."""

    def __init__(self) -> None:
        self.encoder = ScriptedEncoder()
        self.denoiser = ScriptedDenoiser()
        self.vae = ScriptedVae()
        self.stages: dict[str, ScriptedStage] = {
            "encoder": self.encoder,
            "denoiser": self.denoiser,
            "vae": self.vae,
        }

    def limit(self, capabilities: Capabilities) -> None:
        """Gives the model of every stage other limits."""
        for each in self.stages.values():
            assert each.capacity_now is not None
            (loaded,) = each.capacity_now.models
            model = replace(loaded.model, capabilities=capabilities)
            limited = replace(loaded, model=model)
            each.capacity_now = replace(each.capacity_now, models=(limited,))

    @property
    def releases(self) -> list[list[tuple[str, str]]]:
        return [each.releases for each in self.stages.values()]
