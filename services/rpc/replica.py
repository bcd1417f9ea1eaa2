"""What every stage's replica answers about itself."""

import uuid
from collections.abc import Callable
from typing import TypeVar

from services.domain.software import software_versions
from services.domain.stages import Capacity
from services.observability.logs import get_logger
from services.rpc.fence import Fence, FencedRequest
from services.rpc.store_calls import StoreCalls
from services.rpc.worker import StageWorker, Timed
from triptych.domain.deadline import Deadline
from triptych.domain.errors import ModelNotFound, StageLoading, StageUnavailable, TriptychError
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import LoadedModel, Stage

T = TypeVar("T")

_log = get_logger(__name__)


def check_holds(models: tuple[LoadedModel, ...], parameters: GenerationParameters) -> None:
    """Raises ModelNotFound unless one of the models is the request's."""
    served = [each.model.name for each in models]
    if parameters.model not in served:
        raise ModelNotFound(parameters.model, served)


class WorkerReplica:
    """A replica whose stage runs on one worker thread: encoder or VAE.

    Args:
        stage: which panel.
        calls: to the tensor store that it shares with the others.
        worker: the stage's thread.
    """

    def __init__(
        self,
        stage: Stage,
        calls: StoreCalls,
        worker: StageWorker,
    ) -> None:
        self._stage = stage
        self._models: tuple[LoadedModel, ...] = ()
        self._calls = calls
        self._worker = worker
        self._fence = Fence()
        self._instance_id = uuid.uuid4().hex

    async def capacity(self, deadline: Deadline) -> Capacity:
        """What it holds and how busy it is."""
        return self.load()

    def load(self) -> Capacity:
        """The same, for any thread."""
        return Capacity(
            stage=self._stage,
            instance_id=self._instance_id,
            models=self._models,
            tensor_store=self._calls.store.identity,
            running_requests=self._worker.running,
            queued_requests=self._worker.queued,
            max_queued_requests=self._worker.max_queued,
            draining=self._worker.draining,
            loading=not self._models,
            versions=software_versions(),
        )

    async def release(self, tenant: str, request_id: str, deadline: Deadline) -> int:
        """Releases all a request stored, whichever stage wrote it."""
        return await self._calls.release_request(tenant, request_id)

    def check_holds(self, parameters: GenerationParameters) -> None:
        """Raises ModelNotFound unless the replica holds the request's model, or StageLoading."""
        if not self._models:
            raise StageLoading(f"the {self._stage} is loading its model; repeat the request later")
        check_holds(self._models, parameters)

    async def broken(self) -> StageUnavailable:
        """Why no work can succeed any more, as soon as that is so."""
        return await self._worker.broken()

    def drain(self) -> None:
        """Refuses further work; what is admitted finishes."""
        self._worker.draining = True

    async def _run(
        self,
        request: FencedRequest,
        work: Callable[[], T],
        deadline: Deadline,
        discard: Callable[[T], object] = lambda _: None,
        worker: StageWorker | None = None,
    ) -> Timed[T]:
        """Runs a request's work on the thread, unless a later attempt comes.

        Args:
            request: whose it is.
            work: what to run.
            deadline: see StageWorker.run.
            discard: undoes a result that nobody waits for any more; blocking.
            worker: the thread, if it is not the stage's own.
        """
        runs = self._worker if worker is None else worker
        return await self._fence.run(
            request, lambda: runs.run(work, deadline=deadline, discard=discard), deadline
        )

    async def _try(self, work: Callable[[], None], deadline: Deadline) -> None:
        """Runs what nobody asked for; what a request will fail at as well is for that to tell."""
        try:
            await self._worker.run(work, deadline=deadline, discard=lambda _: None)
        except StageUnavailable:
            raise
        except TriptychError as error:
            _log.warning("not warmed up", cause=str(error))

    async def close(self) -> None:
        """Waits for the work at hand and ends the thread."""
        await self._worker.close()
