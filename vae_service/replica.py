"""The VAE as the gateway sees it, in this process."""

from collections.abc import AsyncGenerator
from dataclasses import replace

from services.domain.deadline import Deadline
from services.domain.model import LoadedModel, Stage
from services.domain.stages import (
    Decoded,
    DecodeEvent,
    DecodeRequest,
    EncodedImage,
    EncodeImageRequest,
    MediaChunk,
    StageTask,
)
from services.domain.store_control import StoreControl
from services.observability.tracked import Tracked
from services.rpc.replica import WorkerReplica
from services.rpc.worker import StageWorker
from vae_service.stage import VaeStage

# Well under gRPC's default message limit of 4 MiB.
CHUNK_BYTES = 1024 * 1024


class VaeReplica(WorkerReplica):
    """Runs the stage on its own thread and hands out the media in chunks.

    Args:
        stage: the numerics.
        models: what it holds.
        store: the tensor store it shares with the others.
        worker: the stage's thread.
    """

    def __init__(
        self,
        stage: VaeStage,
        models: tuple[LoadedModel, ...],
        store: StoreControl,
        worker: StageWorker,
    ) -> None:
        super().__init__(Stage.VAE, models, store, worker)
        self._numerics = stage

    async def encode_image(self, request: EncodeImageRequest, deadline: Deadline) -> EncodedImage:
        """Encodes and stores; what comes after the caller left is released."""
        with Tracked(Stage.VAE, StageTask.ENCODE_IMAGES) as tracked:
            self.check_holds(request.parameters)
            tracked.begin(request.parameters.model)
            done = await self._worker.run(
                lambda: self._numerics.encode_image(request),
                deadline=deadline,
                discard=lambda _: self.release_late(request.tenant, request.request_id),
            )
            timing = replace(done.value.timing, queue_seconds=done.queue_seconds)
            tracked.time(timing)
            tracked.wrote(done.value.latents.size_bytes)
            return replace(done.value, timing=timing)

    async def decode(
        self, request: DecodeRequest, deadline: Deadline
    ) -> AsyncGenerator[DecodeEvent, None]:
        """Yields the Artifact, its MediaChunks, then Decoded."""
        with Tracked(Stage.VAE, StageTask.DECODE) as tracked:
            self.check_holds(request.parameters)
            tracked.begin(request.parameters.model)
            done = await self._worker.run(
                lambda: self._numerics.decode(request), deadline=deadline, discard=lambda _: None
            )
            media = done.value
            timing = replace(media.timing, queue_seconds=done.queue_seconds)
            tracked.time(timing)
            tracked.read(request.latents.size_bytes)
            yield media.artifact
            for start in range(0, len(media.data), CHUNK_BYTES):
                yield MediaChunk(media.data[start : start + CHUNK_BYTES])
            tracked.succeed()
            yield Decoded(timing)
