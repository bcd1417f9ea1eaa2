"""The encoder as the gateway sees it, in this process."""

from dataclasses import replace

from encoder_service.stage import EncodeStage
from services.domain.stages import Encoded, EncodeRequest
from services.observability.tracing import current
from services.observability.tracked import Tracked
from services.rpc.replica import WorkerReplica
from services.rpc.store_calls import StoreCalls
from services.rpc.worker import StageWorker
from triptych.domain.deadline import Deadline
from triptych.domain.model import LoadedModel, Stage
from triptych.domain.stage_timing import StageTask


class EncoderReplica(WorkerReplica):
    """Runs the stage on its own thread, once it holds one.

    Args:
        calls: to the tensor store that it shares with the others.
        worker: the stage's thread.
    """

    def __init__(self, calls: StoreCalls, worker: StageWorker) -> None:
        super().__init__(Stage.ENCODER, calls, worker)
        self._numerics: EncodeStage | None = None

    async def warm_up(self, stage: EncodeStage, deadline: Deadline) -> None:
        """Has the thread encode once, which takes longer than ever after."""
        await self._try(stage.warm_up, deadline)

    def hold(self, stage: EncodeStage, models: tuple[LoadedModel, ...]) -> None:
        """Serves what was loaded from now on."""
        self._numerics, self._models = stage, models

    async def encode(self, request: EncodeRequest, deadline: Deadline) -> Encoded:
        """Encodes and stores; what comes after the caller left is released."""
        with Tracked(Stage.ENCODER, StageTask.ENCODE_PROMPT) as tracked:
            self.check_holds(request.parameters)
            tracked.begin(request.parameters.model)
            numerics = self._numerics
            assert numerics is not None
            with current(tracked.span):
                done = await self._run(
                    request,
                    lambda: numerics.encode(request, deadline),
                    deadline,
                    discard=lambda late: self._calls.store.release(late.conditioning),
                )
            timing = replace(done.value.timing, queue_seconds=done.queue_seconds)
            tracked.time(timing)
            tracked.wrote(done.value.conditioning.size_bytes)
            tracked.reused(done.value.conditioning_reuse)
            return replace(done.value, timing=timing)
