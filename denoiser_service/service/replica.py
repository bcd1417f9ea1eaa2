"""The denoiser as the gateway sees it, in this process."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from denoiser_service.rank_group.port import RankGroup
from denoiser_service.service.recorder import DenoiseRecorder
from denoiser_service.service.scheduler import StepScheduler
from services.domain.stages import (
    Capacity,
    DenoiseEvent,
    DenoiseRequest,
    RankGroupInfo,
    StageTask,
)
from services.domain.store_control import StoreControl
from services.observability.tracing import traceparent
from services.observability.tracked import UNKNOWN, Tracked
from services.rpc.replica import check_holds
from triptych.domain.deadline import Deadline
from triptych.domain.model import Stage


class DenoiserReplica:
    """A scheduler and its ranks.

    Args:
        scheduler: the step loop.
        ranks: who runs the steps.
        store: the tensor store it shares with the others.
    """

    def __init__(self, scheduler: StepScheduler, ranks: RankGroup, store: StoreControl) -> None:
        self._scheduler = scheduler
        self._ranks = ranks
        self._store = store
        self._instance_id = uuid.uuid4().hex
        self._model = UNKNOWN

    async def denoise(
        self, request: DenoiseRequest, deadline: Deadline
    ) -> AsyncGenerator[DenoiseEvent, None]:
        """Yields DenoiseStarted, a StepCompleted per step, then Denoised. Closing it cancels."""
        with Tracked(Stage.DENOISER, StageTask.DENOISE) as tracked:
            if self._ranks.ready is not None:
                check_holds((self._ranks.ready.loaded,), request.parameters)
                self._model = self._ranks.ready.loaded.model.name
            # Not the request's own word: while the ranks are being rebuilt nobody checks it.
            tracked.begin(self._model)
            recorder = DenoiseRecorder(tracked, request, self._model)
            trace = traceparent(tracked.span)
            async with aclosing(self._scheduler.denoise(request, deadline, trace)) as events:
                async for event in events:
                    recorder.take(event)
                    yield event

    def cancel(self, request_id: str) -> int:
        """Stops a request at the next step; returns the steps it has done."""
        return self._scheduler.cancel(request_id)

    async def capacity(self, deadline: Deadline) -> Capacity:
        """What it holds and how busy it is; no models while the ranks are being rebuilt."""
        return self.load()

    def load(self) -> Capacity:
        """The same, for any thread."""
        ready = self._ranks.ready
        return Capacity(
            stage=Stage.DENOISER,
            instance_id=self._instance_id,
            models=() if ready is None else (ready.loaded,),
            tensor_store=self._store.identity,
            running_requests=self._scheduler.running,
            queued_requests=self._scheduler.queued,
            max_queued_requests=self._scheduler.max_queued,
            draining=self._scheduler.draining,
            rank_group=RankGroupInfo(
                ranks=self._ranks.degrees.ranks,
                generation=self._ranks.generation,
                completed_steps=self._scheduler.completed_steps,
                degrees=self._ranks.degrees,
                held_bytes=self._scheduler.held_bytes,
                reserved_bytes=self._scheduler.reserved_bytes,
                max_resident_bytes=self._scheduler.room.size_bytes,
                backlog_seconds=self._scheduler.backlog_seconds,
            ),
        )

    async def release(self, tenant: str, request_id: str, deadline: Deadline) -> int:
        """Releases all a request stored, whichever stage wrote it."""
        return await asyncio.to_thread(self._store.release_request, tenant, request_id)

    def drain(self) -> None:
        """Refuses further work; what is admitted finishes."""
        self._scheduler.draining = True

    async def close(self) -> None:
        """Ends the ranks."""
        await self._ranks.close()
