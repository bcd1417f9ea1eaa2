"""The step loop: admission takes requests in, the policy decides a turn, the ranks execute it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from denoiser_service.rank_group.port import RankGroup
from denoiser_service.service.admission import Admission, Refuse
from denoiser_service.service.admitted_request import AdmittedRequest
from denoiser_service.service.policy import Drop, HandOver, Policy, Turn, concerned
from denoiser_service.service.turns import Turns
from services.domain.stages import Denoised, DenoiseEvent, DenoiseRequest
from services.rpc.fence import Fence, FencedCall
from services.rpc.process import run_until_first_ends
from triptych.domain.deadline import Deadline
from triptych.domain.errors import NotFound, StageUnavailable


class StepScheduler:
    """Interleaves requests at step boundaries; a request leaves at the next one when told to.

    Args:
        ranks: that run the steps.
        admission: decides which requests are taken in.
        policy: decides the turns.
        turns: runs them.
        checkpoint_steps: after how many of its steps each request is saved, to go on from there
            when its ranks are lost; 0 if it ends with them, None to have that measured.

    Attributes:
        draining: whether further requests are refused.
    """

    def __init__(
        self,
        ranks: RankGroup,
        admission: Admission,
        policy: Policy,
        turns: Turns,
        checkpoint_steps: int | None = 0,
    ) -> None:
        self._checkpoint_steps = checkpoint_steps
        self._ranks = ranks
        self._policy = policy
        self._turns = turns
        self._requests: dict[str, AdmittedRequest] = {}
        self._fence = Fence()
        self._changed = asyncio.Event()
        self._turn_count = 0
        self._arrivals = 0
        self.admission = admission
        self.draining = False

    @property
    def requests(self) -> tuple[AdmittedRequest, ...]:
        """All that are here; a copy, since metrics are read on another thread."""
        return tuple(self._requests.values())

    @property
    def running(self) -> int:
        """Requests whose state the ranks hold."""
        return sum(request.resident for request in self.requests)

    @property
    def queued(self) -> int:
        """Requests that wait for their first turn."""
        return sum(not request.resident for request in self.requests)

    @property
    def held_bytes(self) -> int:
        """What the ranks keep of all requests now."""
        return sum(request.held_bytes for request in self.requests)

    @property
    def reserved_bytes(self) -> int:
        """What the ranks keep of them at most."""
        return sum(request.size_bytes for request in self.requests if request.resident)

    @property
    def backlog_seconds(self) -> float:
        """What all steps that are left will take, as long as lately measured, at first a second."""
        return self._turns.step_seconds * sum(request.steps_left for request in self.requests)

    @property
    def completed_steps(self) -> int:
        """Of all requests since the start."""
        return self._turns.completed_steps

    async def denoise(
        self, request: DenoiseRequest, deadline: Deadline, trace: str | None = None
    ) -> AsyncGenerator[DenoiseEvent, None]:
        """See services.domain.stages.Denoiser; closing it cancels.

        Args:
            request: what to denoise.
            deadline: when to give up.
            trace: traceparent of the span that the ranks' spans belong to.

        Raises:
            StageUnavailable: draining.
            HandedOver: it was drained, and another one can go on.
            Superseded: a later attempt of the request has come.
            AlreadyExists: a request of this id is being denoised.
            Unavailable: a request of this id, which has no attempt, is leaving.
            ModelNotFound, InvalidRequest: not this model's, outside its limits, or it would not fit
                if it had the ranks for itself.
            QueueFull: too many wait already.
            RanksLost: a rank died under the request, which is not saved, or died of it.
            DeadlineExceeded, Cancelled, TriptychError: as they say.
        """
        admitted = await self._enter(request, deadline, trace)
        handed_over = False
        try:
            async with aclosing(admitted.log.read()) as events:
                async for event in events:
                    handed_over = isinstance(event, Denoised)
                    yield event
        finally:
            admitted.cancelled = True
            self._changed.set()
            if admitted.log.succeeded and not handed_over:
                self._turns.release_later(admitted)

    def drain(self) -> None:
        """Takes in no further requests, and hands over those that others can go on with."""
        self.draining = True
        for admitted in self.requests:
            admitted.hands_over = admitted.request.can_hand_over
        self._changed.set()

    def cancel(self, request_id: str) -> int:
        """Stops a request, all of its results, at the next step; returns the steps it has done.

        Raises:
            NotFound: no such request is here.
        """
        results = [one for one in self.requests if one.request.request_id == request_id]
        if not results:
            raise NotFound(f"request_id: {request_id} is not being denoised here")
        for admitted in results:
            admitted.cancelled = True
        self._changed.set()
        return sum(admitted.completed_steps for admitted in results)

    async def run(self) -> None:
        """The loop; runs until it is cancelled."""
        while True:
            self._changed.clear()
            self._turns.end_stale(request for request in self.requests if request.resident)
            self._forget_ended()
            turn = self._policy.next_turn([request.candidate() for request in self.requests])
            if turn is None:
                await self._changed.wait()
            elif self._ranks.current is None and not isinstance(turn, Drop | HandOver):
                # While the ranks are being rebuilt, those who leave must not fill the queue.
                await run_until_first_ends(self._ranks.wait_ready(), self._changed.wait())
            else:
                await self._run(turn)

    async def _run(self, turn: Turn) -> None:
        self._turn_count += 1
        for request_id in concerned(turn):
            self._requests[request_id].last_turn = self._turn_count
        await self._turns.run(turn, self._requests)
        self._forget_ended()

    def _forget_ended(self) -> None:
        for request in self.requests:
            if request.log.ended:
                del self._requests[request.id]
                self._fence.leave(request.call)
                if not request.log.succeeded:
                    self._turns.release_later(request)

    async def _enter(
        self, request: DenoiseRequest, deadline: Deadline, trace: str | None
    ) -> AdmittedRequest:
        """Admits a request once its earlier attempts, and calls that were given up, have left."""
        former = [
            admitted.call
            for admitted in self.requests
            if admitted.id == request.place and admitted.leaving is not None
        ]
        call = await self._fence.enter(request, deadline, former)
        call.superseded.add_done_callback(lambda _: self._changed.set())
        try:
            return self._admit(call, request, deadline, trace)
        except BaseException:
            self._fence.leave(call)
            raise

    def _admit(
        self, call: FencedCall, request: DenoiseRequest, deadline: Deadline, trace: str | None
    ) -> AdmittedRequest:
        if self.draining:
            raise StageUnavailable("the denoiser is draining; repeat the request elsewhere")
        ranks = self._ranks.current
        decision = self.admission.decide(
            request,
            [admitted.candidate() for admitted in self.requests],
            model=None if ranks is None else ranks.ready.loaded.model,
            step_seconds=self._turns.step_seconds,
        )
        if isinstance(decision, Refuse):
            raise decision.reason
        self._arrivals += 1
        admitted = AdmittedRequest(
            call,
            request,
            deadline,
            arrival=self._arrivals,
            size_bytes=decision.size_bytes,
            trace=trace,
            checkpoint_steps=self._checkpoint_steps,
        )
        # As if it had had a turn just now: newcomers do not overtake those who take turns.
        admitted.last_turn = self._turn_count
        self._requests[admitted.id] = admitted
        self._changed.set()
        return admitted
