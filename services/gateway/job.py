"""One job on its way through the stages. Start reading here.

The gateway moves references, never tensors. Each stage's replica is chosen when its stage begins,
and another one when that fails; what a stage gave is in the jobs' ledger before the next one
begins, so that whoever claims the job after this process goes on from there.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from services.domain.checkpoint import Checkpoint
from services.domain.job_event import JobEvent
from services.domain.stages import (
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
from services.domain.tensor_ref import TensorRef
from services.gateway.access import Tenant
from services.gateway.byte_room import ByteRoom
from services.gateway.outputs import Outputs
from services.gateway.previews import Previews
from services.gateway.received_images import ReceivedImage, loaded
from services.gateway.replicas import ReplicaPools
from services.gateway.results import NotKept, Result, Results
from services.gateway.retries import Remake, Retries
from services.gateway.steps import Steps
from services.gateway.together import together
from services.gateway.watched import Watched
from services.jobs.journal import Journal
from services.jobs.ledger import Claim
from services.jobs.record import OutputSlot
from services.observability.logs import get_logger
from services.rpc.stored import DecodedArtifact, event_bytes
from triptych.domain.deadline import Deadline
from triptych.domain.errors import ResourceExhausted, TriptychError
from triptych.domain.events import CheckpointSaved, StageCompleted, StageStarted, StepCompleted
from triptych.domain.generation import GenerationParameters
from triptych.domain.generation_result import Artifact, GenerationResult
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask, StageTiming

T = TypeVar("T")

_log = get_logger(__name__)

_STAGES: Final = {
    StageTask.ENCODE_PROMPT: Stage.ENCODER,
    StageTask.ENCODE_IMAGES: Stage.VAE,
    StageTask.DENOISE: Stage.DENOISER,
    StageTask.DECODE: Stage.VAE,
}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A job that was claimed, and what it takes to do it.

    Attributes:
        parameters: effective values.
        images: their images.
        tenant: whose job it is.
        deadline: when the result stops being worth anything.
    """

    claim: Claim
    parameters: GenerationParameters
    images: tuple[ReceivedImage, ...]
    tenant: Tenant
    deadline: Deadline


class Job:
    """Takes a job from what is there of it to its result.

    Args:
        assignment: what to do.
        journal: where it is noted.
        pools: the stages' replicas.
        results: where its artifacts are kept.
        transit: room for pictures on their way to a stage.
    """

    def __init__(
        self,
        assignment: Assignment,
        journal: Journal,
        pools: ReplicaPools,
        results: Results,
        transit: ByteRoom,
    ) -> None:
        record = assignment.claim.record
        self._id, self._attempt = record.key.job_id, assignment.claim.token
        self._tenant = assignment.tenant
        self._parameters = assignment.parameters
        self._images = assignment.images
        self._deadline = assignment.deadline
        self._create_time = record.create_time
        self._journal = journal
        self._pools = pools
        self._results = results
        self._transit = transit
        self._outputs = Outputs(journal, record.outputs)
        self._retries = Retries(record, journal)
        self._steps = Steps(self._outputs.steps(self._parameters), record.completed_steps)
        self._store: str | None = None
        self._previews = Previews(self._draw_preview, self._tell)

    async def run(self) -> GenerationResult:
        """Does what is left of it.

        Raises:
            JobFailed: nothing more is tried.
            ClaimLost, Cancelled: the job is no longer this process's.
        """
        if not self._parameters.preview_every_steps:
            return await self._run()
        async with self._previews.drawing():
            return await self._run()

    async def _run(self) -> GenerationResult:
        while True:
            try:
                await self._stages()
            except Remake as remake:
                self._outputs.drop(remake.from_task)
            else:
                seconds = time.time() - self._create_time
                receipt = self._pools.receipt(self._parameters.model)
                return self._outputs.result(self._parameters, seconds, receipt)

    async def _stages(self) -> None:
        indices = range(self._parameters.num_images)
        undecoded = [index for index in indices if self._outputs.decoded(index) is None]
        undenoised = [index for index in undecoded if self._outputs.denoised(index) is None]
        if undenoised:
            await self._encode()
        # At once: those that can share steps do.
        await together(*(self._denoise(index) for index in undenoised))
        for index in undecoded:
            await self._decode(index)

    async def _encode(self) -> None:
        """Prompt and pictures at once: different stages read them."""
        work: list[Coroutine[Any, Any, object]] = []
        if self._outputs.encoded() is None:
            self._tell(StageStarted(Stage.ENCODER, StageTask.ENCODE_PROMPT))
            work.append(self._encode_prompt(0))
        if any(self._outputs.image(index) is None for index in range(len(self._images))):
            self._tell(StageStarted(Stage.VAE, StageTask.ENCODE_IMAGES))
            work.append(self._encode_images())
        await together(*work)

    async def _encode_prompt(self, index: int) -> Encoded:
        began = time.monotonic()
        alone = self._parameters.alone(index)

        async def encoded_at(replica: Watched[Any]) -> Encoded:
            async with loaded(self._images, self._transit, self._deadline) as images:
                asked = EncodeRequest(self._id, self._tenant.name, alone, images, self._attempt)
                encoded: Encoded = await replica.port.encode(asked, self._deadline)
                return encoded

        encoded = await self._tried(StageTask.ENCODE_PROMPT, encoded_at)
        encoded = replace(encoded, timing=_whole(encoded.timing, began))
        told = () if index else (StageCompleted(encoded.timing),)
        await self._outputs.put(OutputSlot(StageTask.ENCODE_PROMPT, index), encoded, told)
        return encoded

    async def _encode_images(self) -> None:
        for index, image in enumerate(self._images):
            if self._outputs.image(index) is None:
                await self._encode_image(index, image)

    async def _encode_image(self, index: int, image: ReceivedImage) -> None:
        began = time.monotonic()
        alone = self._parameters.alone(0)

        async def encoded_at(replica: Watched[Any]) -> EncodedImage:
            async with loaded([image], self._transit, self._deadline) as (data,):
                asked = EncodeImageRequest(
                    self._id, self._tenant.name, alone, index, data, self._attempt
                )
                encoded: EncodedImage = await replica.port.encode_image(asked, self._deadline)
                return encoded

        encoded = await self._tried(StageTask.ENCODE_IMAGES, encoded_at)
        encoded = replace(encoded, timing=_whole(encoded.timing, began))
        slot = OutputSlot(StageTask.ENCODE_IMAGES, index)
        self._outputs.hold(slot, encoded)
        is_last = index == len(self._images) - 1
        told = [StageCompleted(self._outputs.images_timing())] if is_last else ()
        await self._outputs.put(slot, encoded, told)

    async def _denoise(self, index: int) -> None:
        began = time.monotonic()
        first = self._outputs.encoded()
        assert first is not None
        encoded = self._outputs.encoded(index)
        if encoded is None:
            # A language model writes by the seed: each result has a prompt of its own.
            writes = first.written_prompt is not None
            encoded = await self._encode_prompt(index) if writes else first
        asked = DenoiseRequest(
            request_id=self._id,
            tenant=self._tenant.name,
            parameters=self._parameters.alone(index),
            conditioning=encoded.conditioning,
            image_latents=tuple(image.latents for image in self._outputs.images()),
            image_index=index,
            attempt=self._attempt,
        )

        async def denoised_at(replica: Watched[Any]) -> Denoised:
            others = self._pools.has_others(
                Stage.DENOISER, self._parameters.model, self._tensor_store(), {replica}
            )
            checkpoint = self._outputs.checkpoint(index)
            again = replace(asked, resume_from=checkpoint, can_hand_over=others)
            return await self._denoised_at(replica, again)

        denoised = await self._tried(StageTask.DENOISE, denoised_at)
        denoised = replace(denoised, timing=_whole(denoised.timing, began))
        told = StageCompleted(denoised.timing)
        await self._outputs.put(OutputSlot(StageTask.DENOISE, index), denoised, [told])

    async def _denoised_at(self, replica: Watched[Any], asked: DenoiseRequest) -> Denoised:
        index, denoised = asked.image_index, None
        begin = asked.resume_from.completed_steps if asked.resume_from else 0
        if repeated := self._steps.repeated(index, begin):
            _log.info("denoising again", after_step=begin, repeated_steps=repeated)
        async with aclosing(replica.port.denoise(asked, self._deadline)) as events:
            async for event in events:
                if isinstance(event, Denoised):
                    denoised = event
                else:
                    await self._note(event, index)
        if denoised is None:
            raise TriptychError("the denoiser ended without latents")
        return denoised

    async def _note(self, event: DenoiseEvent, index: int) -> None:
        """Takes in what happens in the denoising loop of a result."""
        match event:
            case DenoiseStarted():
                self._tell(StageStarted(Stage.DENOISER, StageTask.DENOISE))
            case StepCompleted():
                if self._steps.take(index, event.step):
                    self._tell(replace(event, image_index=index))
                    await self._journal.room()
            case PreviewLatents():
                self._previews.offer(event, index)
            case Checkpoint():
                saved = [CheckpointSaved(event.completed_steps)]
                await self._outputs.put(OutputSlot(StageTask.DENOISE, index), event, saved)

    async def _draw_preview(self, latents: TensorRef, index: int) -> PreviewPicture:
        alone = self._parameters.alone(index)
        asked = DrawPreviewRequest(self._id, self._tenant.name, alone, latents, self._attempt)
        vae = self._pools.choose(Stage.VAE, self._parameters.model, self._tensor_store())
        drawn: PreviewPicture = await vae.port.draw_preview(asked, self._deadline)
        return drawn

    async def _decode(self, index: int) -> None:
        began = time.monotonic()
        denoised = self._outputs.denoised(index)
        assert denoised is not None
        self._tell(StageStarted(Stage.VAE, StageTask.DECODE))

        async def decoded_at(replica: Watched[Any]) -> DecodedArtifact:
            return await self._decoded_at(replica, index, denoised)

        decoded = await self._tried(StageTask.DECODE, decoded_at)
        decoded = replace(decoded, timing=_whole(decoded.timing, began))
        slot, told = OutputSlot(StageTask.DECODE, index), StageCompleted(decoded.timing)
        if decoded.artifact.expire_time is None:
            # Its caller has it, and nobody could have it again: whoever goes on decodes again.
            self._outputs.hold(slot, decoded)
            self._tell(told)
        else:
            await self._outputs.put(slot, decoded, [told])

    async def _decoded_at(
        self, replica: Watched[Any], index: int, denoised: Denoised
    ) -> DecodedArtifact:
        try:
            return await self._decoded_into(
                self._results.begin(self._tenant), replica, index, denoised
            )
        except NotKept as not_kept:
            if (handed := self._results.hand_over(self._id)) is None:
                raise not_kept.error from not_kept
        return await self._decoded_into(handed, replica, index, denoised)

    async def _decoded_into(
        self, result: Result, replica: Watched[Any], index: int, denoised: Denoised
    ) -> DecodedArtifact:
        asked = DecodeRequest(
            self._id,
            self._tenant.name,
            self._parameters.alone(index),
            denoised.latents,
            self._attempt,
        )
        size_bytes, timing, artifact = 0, None, None
        try:
            async with aclosing(replica.port.decode(asked, self._deadline)) as events:
                async for event in events:
                    if isinstance(event, Artifact):
                        artifact = _placed(event, index, denoised.latents_checksum_xxh3)
                        result.open(artifact)
                    elif isinstance(event, MediaChunk):
                        await result.write(event.data)
                        size_bytes += len(event.data)
                    else:
                        timing = event.timing
            if timing is None or artifact is None or size_bytes != artifact.size_bytes:
                raise TriptychError("the VAE ended before the artifact was complete")
            return DecodedArtifact(await result.commit(artifact), timing)
        finally:
            result.discard()

    async def _tried(self, task: StageTask, carry_out: Callable[[Watched[Any]], Awaitable[T]]) -> T:
        """Has a task carried out by a replica, by others if that fails, and again if it may be.

        Raises:
            JobFailed, Remake, ClaimLost, Cancelled: see Retries.
        """
        stage, model = _STAGES[task], self._parameters.model
        avoided: set[Watched[Any]] = set()
        while True:
            replica = None
            try:
                store = self._tensor_store()
                replica = self._pools.choose(stage, model, store, avoided)
                return await carry_out(replica)
            except TriptychError as error:
                if self._journal.lost.done():
                    raise self._journal.lost.result() from error
                if replica is not None and error.status == ResourceExhausted.status:
                    avoided.add(replica)
                    if self._pools.has_others(stage, model, store, avoided):
                        continue
                self._store = None
                retry = await self._retries.after(error, task, self._steps.completed)
            avoided = {replica} if replica is not None and retry.elsewhere else set()

    def _tensor_store(self) -> str:
        """Where the job's tensors are, or the first of them will be."""
        if (store := self._outputs.store) is not None:
            return store
        # Once for all that is encoded at once.
        self._store = self._store or self._pools.store(self._parameters.model)
        return self._store

    def _tell(self, event: JobEvent) -> None:
        self._journal.record(event_bytes(event), self._steps.completed)


def _placed(artifact: Artifact, index: int, latents_checksum: int) -> Artifact:
    """An artifact among the job's others."""
    name = f"{artifact.artifact_id}.{index}" if index else artifact.artifact_id
    return replace(artifact, artifact_id=name, index=index, latents_checksum_xxh3=latents_checksum)


def _whole(timing: StageTiming, began: float) -> StageTiming:
    return replace(timing, total_seconds=time.monotonic() - began)
