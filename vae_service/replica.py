"""The VAE as the gateway sees it, in this process."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from services.domain.stages import (
    Decoded,
    DecodeEvent,
    DecodeRequest,
    DrawPreviewRequest,
    EncodedImage,
    EncodeImageRequest,
    MediaChunk,
    PreviewPicture,
)
from services.observability.metrics import PREVIEWS_DRAWN
from services.observability.tracing import current
from services.observability.tracked import Tracked
from services.rpc.replica import WorkerReplica
from services.rpc.store_calls import StoreCalls
from services.rpc.worker import StageWorker, Timed
from triptych.domain.deadline import Deadline
from triptych.domain.errors import StageUnavailable
from triptych.domain.model import LoadedModel, Stage
from triptych.domain.stage_timing import StageTask
from vae_service.preview_stage import PreviewStage
from vae_service.stage import VaeStage

# Well under gRPC's default message limit of 4 MiB.
CHUNK_BYTES = 1024 * 1024
# A preview that would have to wait for more is late anyway.
MAX_QUEUED_PREVIEWS = 16


class VaeReplica(WorkerReplica):
    """Runs the stage, once it holds one, on its own thread and hands out the media in chunks.

    Args:
        calls: to the tensor store that it shares with the others.
        worker: the stage's thread.
    """

    def __init__(self, calls: StoreCalls, worker: StageWorker) -> None:
        super().__init__(Stage.VAE, calls, worker)
        self._held: tuple[VaeStage, PreviewStage] | None = None
        self._preview_worker = worker.beside(MAX_QUEUED_PREVIEWS)
        self._fit: asyncio.Task[Timed[None]] | None = None

    async def warm_up(self, previews: PreviewStage, deadline: Deadline) -> None:
        """Has the thread encode and decode once, which takes longer than ever after."""
        await self._try(previews.fit, deadline)

    def hold(
        self, stage: VaeStage, previews: PreviewStage, models: tuple[LoadedModel, ...]
    ) -> None:
        """Serves what was loaded from now on: decodes and encodes, and draws previews."""
        self._held, self._models = (stage, previews), models

    async def encode_image(self, request: EncodeImageRequest, deadline: Deadline) -> EncodedImage:
        """Encodes and stores; what comes after the caller left is released."""
        with Tracked(Stage.VAE, StageTask.ENCODE_IMAGES) as tracked:
            self.check_holds(request.parameters)
            tracked.begin(request.parameters.model)
            with current(tracked.span):
                done = await self._run(
                    request,
                    lambda: self._stage_held.encode_image(request, deadline),
                    deadline,
                    discard=lambda late: self._calls.store.release(late.latents),
                )
            timing = replace(done.value.timing, queue_seconds=done.queue_seconds)
            tracked.time(timing)
            tracked.wrote(done.value.latents.size_bytes)
            tracked.reused(done.value.conditioning_reuse)
            return replace(done.value, timing=timing)

    async def decode(
        self, request: DecodeRequest, deadline: Deadline
    ) -> AsyncGenerator[DecodeEvent, None]:
        """Yields the Artifact, its MediaChunks, then Decoded."""
        with Tracked(Stage.VAE, StageTask.DECODE) as tracked:
            self.check_holds(request.parameters)
            tracked.begin(request.parameters.model)
            with current(tracked.span):
                done = await self._run(request, lambda: self._stage_held.decode(request), deadline)
            media = done.value
            timing = replace(media.timing, queue_seconds=done.queue_seconds)
            tracked.time(timing)
            tracked.read(request.latents.size_bytes)
            yield media.artifact
            for start in range(0, len(media.data), CHUNK_BYTES):
                yield MediaChunk(media.data[start : start + CHUNK_BYTES])
            tracked.succeed()
            yield Decoded(timing)

    async def draw_preview(self, request: DrawPreviewRequest, deadline: Deadline) -> PreviewPicture:
        """Draws on a thread of its own, so that neither this nor a decode waits for the other."""
        self.check_holds(request.parameters)
        if not self._previews.fitted:
            await asyncio.shield(self._fitted(deadline))
        done = await self._run(
            request,
            lambda: self._previews.draw(request),
            deadline,
            worker=self._preview_worker,
        )
        PREVIEWS_DRAWN.add(1, model=request.parameters.model)
        return done.value

    async def broken(self) -> StageUnavailable:
        """Why no work can succeed any more, as soon as that is so of either thread."""
        waits = [
            asyncio.ensure_future(each.broken()) for each in (self._worker, self._preview_worker)
        ]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for each in waits:
                each.cancel()

    def drain(self) -> None:
        """Refuses further work; what is admitted finishes."""
        super().drain()
        self._preview_worker.draining = True

    async def close(self) -> None:
        """Waits for the work at hand and ends the threads."""
        await asyncio.gather(super().close(), self._preview_worker.close())

    @property
    def _stage_held(self) -> VaeStage:
        assert self._held is not None
        return self._held[0]

    @property
    def _previews(self) -> PreviewStage:
        assert self._held is not None
        return self._held[1]

    def _fitted(self, deadline: Deadline) -> "asyncio.Task[Timed[None]]":
        """The fit, in the VAE's own queue: once for all requests, unless it had to be given up."""
        given_up = self._fit is not None and (
            self._fit.cancelled() or (self._fit.done() and self._fit.exception() is not None)
        )
        if self._fit is None or given_up:
            work = self._worker.run(self._previews.fit, deadline=deadline, discard=lambda _: None)
            self._fit = asyncio.create_task(work)
        return self._fit
