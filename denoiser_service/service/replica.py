"""The denoiser as the gateway sees it, in this process."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from denoiser_service.rank_group.port import RankGroup
from denoiser_service.service.recorder import DenoiseRecorder
from denoiser_service.service.scheduler import StepScheduler
from services.domain.software import software_versions
from services.domain.stages import Capacity, DenoiseEvent, DenoiseRequest, RankGroupInfo
from services.observability.tracing import traceparent
from services.observability.tracked import UNKNOWN, Tracked
from services.rpc.replica import check_holds
from services.rpc.store_calls import StoreCalls
from triptych.domain.deadline import Deadline
from triptych.domain.errors import StageUnavailable
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask


class DenoiserReplica:
    """A scheduler and its ranks.

    Args:
        scheduler: the step loop.
        ranks: who runs the steps.
        calls: to the tensor store that it shares with the others.
    """

    def __init__(self, scheduler: StepScheduler, ranks: RankGroup, calls: StoreCalls) -> None:
        self._scheduler = scheduler
        self._ranks = ranks
        self._calls = calls
        self._instance_id = uuid.uuid4().hex
        self._model = UNKNOWN

    async def denoise(
        self, request: DenoiseRequest, deadline: Deadline
    ) -> AsyncGenerator[DenoiseEvent, None]:
        """See services.domain.stages.Denoiser."""
        with Tracked(Stage.DENOISER, StageTask.DENOISE) as tracked:
            if (ranks := self._ranks.current) is not None:
                check_holds((ranks.ready.loaded,), request.parameters)
                self._model = ranks.ready.loaded.model.name
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
        ranks, scheduler = self._ranks.current, self._scheduler
        return Capacity(
            stage=Stage.DENOISER,
            instance_id=self._instance_id,
            models=() if ranks is None else (ranks.ready.loaded,),
            tensor_store=self._calls.store.identity,
            running_requests=scheduler.running,
            queued_requests=scheduler.queued,
            max_queued_requests=scheduler.admission.max_queued,
            # Ranks that are rebuilt later on are lost, for all that a caller is to know.
            loading=ranks is None and self._ranks.generation <= 1,
            draining=scheduler.draining,
            versions=software_versions(),
            rank_group=RankGroupInfo(
                ranks=self._ranks.degrees.ranks,
                generation=self._ranks.generation,
                completed_steps=scheduler.completed_steps,
                degrees=self._ranks.degrees,
                held_bytes=scheduler.held_bytes,
                reserved_bytes=scheduler.reserved_bytes,
                max_resident_bytes=scheduler.admission.room.size_bytes,
                backlog_seconds=scheduler.backlog_seconds,
            ),
        )

    async def release(self, tenant: str, request_id: str, deadline: Deadline) -> int:
        """Releases all a request stored, whichever stage wrote it."""
        return await self._calls.release_request(tenant, request_id)

    async def broken(self) -> StageUnavailable:
        """Never returns: ranks that break are rebuilt."""
        never: asyncio.Future[StageUnavailable] = asyncio.get_running_loop().create_future()
        return await never

    def drain(self) -> None:
        """Refuses further work; what is admitted finishes, or is handed over."""
        self._scheduler.drain()

    async def close(self) -> None:
        """Ends the ranks."""
        await self._ranks.close()
