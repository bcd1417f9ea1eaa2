"""One request on its way through the stages."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace

from services.domain.job_event import ArtifactChunk, JobEvent
from services.domain.stages import (
    DecodeRequest,
    Denoised,
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
from services.gateway.merged import merged
from services.gateway.previews import Previews
from services.gateway.received_images import ReceivedImage, loaded
from services.gateway.replicas import Route
from services.gateway.results import Results
from triptych.domain.cache_statistics import joined
from triptych.domain.conditioning_reuse import ConditioningReuse, summed
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TriptychError
from triptych.domain.events import StageCompleted, StageStarted, StepCompleted
from triptych.domain.generation import GenerationParameters
from triptych.domain.generation_result import Artifact, GenerationResult
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask, StageTiming

# What a hop keeps of the deadline, so that it can still answer when the next one runs out of time.
HOP_SECONDS = 0.05


class Job:
    """Holds what each stage gave until the next one has read it.

    Args:
        route: the replicas that work on it.
        parameters: effective values.
        images: their images.
        tenant: whose job it is.
        job_id: 32 hexadecimal digits, never used before.
        deadline: when the result stops being worth anything.
        results: where its artifacts are kept.
        transit: room for pictures on their way to a stage.
    """

    def __init__(
        self,
        route: Route,
        parameters: GenerationParameters,
        images: tuple[ReceivedImage, ...],
        tenant: Tenant,
        job_id: str,
        deadline: Deadline,
        results: Results,
        transit: ByteRoom,
    ) -> None:
        self.route = route
        self.tenant = tenant.name
        self._owner = tenant
        self._results = results
        self._transit = transit
        self.job_id = job_id
        self._parameters = parameters
        self._images = images
        self.deadline = deadline.earlier(HOP_SECONDS)
        self._began = time.monotonic()
        self._timings: list[StageTiming] = []
        self._encoded: Encoded | None = None
        self._image_latents: list[EncodedImage] = []
        self._denoised: dict[int, Denoised] = {}
        self._artifacts: list[Artifact] = []
        self._previews = Previews(self._draw_preview)

    async def run(self) -> AsyncGenerator[JobEvent, None]:
        """Yields what happens, the artifact's bytes, and the GenerationResult."""
        try:
            async with aclosing(self._stages()) as stages:
                wanted = self._parameters.preview_every_steps > 0
                async with aclosing(self._previews.among(stages) if wanted else stages) as events:
                    async for event in events:
                        yield event
        finally:
            # A job is in a cycle with its previews: it stays until the collector comes by.
            self._images = ()
        # Here, where no preview can come after it.
        yield self._job_completed()

    async def _stages(self) -> AsyncGenerator[JobEvent, None]:
        results = range(self._parameters.num_images)
        stages = [self._encode()]
        if len(results) == 1:
            stages += [self._denoise(0)]
        else:
            # At once: those that can share steps do.
            stages += [merged([self._denoise(index) for index in results])]
        stages += [self._decode(index) for index in results]
        for stage in stages:
            async with aclosing(stage) as events:
                async for event in events:
                    yield event

    def _job_completed(self) -> GenerationResult:
        assert self._encoded is not None
        denoised = [self._denoised[index] for index in range(self._parameters.num_images)]
        return GenerationResult(
            parameters=self._parameters,
            artifacts=tuple(self._artifacts),
            stage_timings=tuple(self._timings),
            latents_checksum_xxh3=denoised[0].latents_checksum_xxh3,
            total_seconds=time.monotonic() - self._began,
            written_prompt=self._encoded.written_prompt,
            cache_statistics=joined([each.cache_statistics for each in denoised]),
            parallel_degrees=denoised[0].degrees,
            conditioning_reuse=summed(self._reuse(self._encoded)),
        )

    async def _encode(self) -> AsyncGenerator[JobEvent, None]:
        """Prompt and pictures at once: different stages read them."""
        began = time.monotonic()
        yield StageStarted(Stage.ENCODER, StageTask.ENCODE_PROMPT)
        if self._images:
            yield StageStarted(Stage.VAE, StageTask.ENCODE_IMAGES)
        work = [asyncio.create_task(self._encode_prompt())]
        if self._images:
            work.append(asyncio.create_task(self._encode_images()))
        pending = set(work)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in [each for each in work if each in done]:
                    yield self._completed(task.result(), began)
        finally:
            for task in pending:
                task.cancel()
            # Their failures are looked at, so that nobody reports them as forgotten.
            await asyncio.gather(*work, return_exceptions=True)

    async def _encode_prompt(self) -> StageTiming:
        self._encoded = await self._encoding_of(0)
        return self._encoded.timing

    async def _encoding_of(self, index: int) -> Encoded:
        alone = self._parameters.alone(index)
        async with loaded(self._images, self._transit, self.deadline) as images:
            asked = EncodeRequest(self.job_id, self.tenant, alone, images)
            return await self.route.encoder.encode(asked, self.deadline)

    async def _encode_images(self) -> StageTiming:
        alone = self._parameters.alone(0)
        for index, image in enumerate(self._images):
            async with loaded([image], self._transit, self.deadline) as (data,):
                asked = EncodeImageRequest(self.job_id, self.tenant, alone, index, data)
                self._image_latents.append(await self.route.vae.encode_image(asked, self.deadline))
        timings = [each.timing for each in self._image_latents]
        return replace(
            timings[0],
            queue_seconds=sum(each.queue_seconds for each in timings),
            run_seconds=sum(each.run_seconds for each in timings),
            transfer_seconds=sum(each.transfer_seconds for each in timings),
        )

    async def _denoise(self, index: int) -> AsyncGenerator[JobEvent, None]:
        began = time.monotonic()
        assert self._encoded is not None
        encoded = self._encoded
        if index and encoded.written_prompt is not None:
            # A language model writes by the seed: each result has a prompt of its own.
            encoded = await self._encoding_of(index)
        asked = DenoiseRequest(
            request_id=self.job_id,
            tenant=self.tenant,
            parameters=self._parameters.alone(index),
            conditioning=encoded.conditioning,
            image_latents=tuple(each.latents for each in self._image_latents),
            image_index=index,
        )
        async with aclosing(self.route.denoiser.denoise(asked, self.deadline)) as events:
            async for event in events:
                if isinstance(event, DenoiseStarted):
                    yield StageStarted(Stage.DENOISER, StageTask.DENOISE)
                elif isinstance(event, StepCompleted):
                    yield replace(event, image_index=index)
                elif isinstance(event, PreviewLatents):
                    self._previews.offer(event, index)
                elif isinstance(event, Denoised):
                    self._denoised[index] = event
        if index not in self._denoised:
            raise TriptychError("the denoiser ended without latents")
        yield self._completed(self._denoised[index].timing, began)

    async def _draw_preview(self, latents: TensorRef, index: int) -> PreviewPicture:
        parameters = self._parameters.alone(index)
        asked = DrawPreviewRequest(self.job_id, self.tenant, parameters, latents)
        return await self.route.vae.draw_preview(asked, self.deadline)

    async def _decode(self, index: int) -> AsyncGenerator[JobEvent, None]:
        began = time.monotonic()
        denoised = self._denoised[index]
        yield StageStarted(Stage.VAE, StageTask.DECODE)
        parameters = self._parameters.alone(index)
        asked = DecodeRequest(self.job_id, self.tenant, parameters, denoised.latents)
        offset = 0
        timing = artifact = None
        kept = self._results.begin(self._owner)
        try:
            async with aclosing(self.route.vae.decode(asked, self.deadline)) as events:
                async for event in events:
                    if isinstance(event, Artifact):
                        artifact = self._placed(event, index, denoised.latents_checksum_xxh3)
                        kept.open(artifact)
                    elif isinstance(event, MediaChunk):
                        # Only the first chunk says what the bytes are.
                        yield ArtifactChunk(None if offset else artifact, offset, event.data)
                        offset += len(event.data)
                        await kept.write(event.data)
                    else:
                        timing = event.timing
            if timing is None or artifact is None or offset != artifact.size_bytes:
                raise TriptychError("the VAE ended before the artifact was complete")
            self._artifacts.append(await kept.commit(artifact))
        finally:
            kept.discard()
        yield self._completed(timing, began)

    def _placed(self, artifact: Artifact, index: int, latents_checksum: int) -> Artifact:
        """An artifact among the request's others."""
        name = f"{artifact.artifact_id}.{index}" if index else artifact.artifact_id
        return replace(
            artifact, artifact_id=name, index=index, latents_checksum_xxh3=latents_checksum
        )

    def _reuse(self, encoded: Encoded) -> Iterator[ConditioningReuse]:
        yield from encoded.conditioning_reuse
        for image in self._image_latents:
            yield from image.conditioning_reuse

    def _completed(self, timing: StageTiming, began: float) -> StageCompleted:
        whole = replace(timing, total_seconds=time.monotonic() - began)
        self._timings.append(whole)
        return StageCompleted(whole)
