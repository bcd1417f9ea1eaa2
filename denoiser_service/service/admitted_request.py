"""One request from its admission until its caller has its last event."""

import time
from collections.abc import Iterable
from dataclasses import replace

from denoiser_service.rank.commands import Finished, Prepared, Stepped
from denoiser_service.rank_group.port import Ranks
from denoiser_service.service.cache_statistics import always_computed_share, cache_statistics
from denoiser_service.service.event_log import EventLog
from denoiser_service.service.resumption import Resumption
from denoiser_service.service.room import Candidate, Leaving
from services.domain.checkpoint import Checkpoint
from services.domain.stages import Denoised, DenoiseRequest, DenoiseStarted, PreviewLatents
from services.domain.tensor_ref import TensorRef
from services.rpc.fence import FencedCall
from triptych.domain.acceleration import CacheSupport, NoCache
from triptych.domain.cache_statistics import CacheStatistics
from triptych.domain.deadline import Deadline
from triptych.domain.errors import Cancelled
from triptych.domain.events import StepCompleted
from triptych.domain.model import Stage
from triptych.domain.parallel import ONE_RANK
from triptych.domain.stage_timing import StageTask, StageTiming


class AdmittedRequest:
    """What the step loop knows of a request.

    Args:
        call: what its attempt is fenced by.
        request: what to denoise.
        deadline: when to give up.
        arrival: a number that grows with every request.
        size_bytes: what the ranks will keep of it, at most.
        trace: traceparent of the span that its commands belong to; None if nobody collects it.
        checkpoint_steps: see Resumption.

    Attributes:
        resumption: what it goes on from, here when its ranks are lost, or elsewhere.
        hands_over: whether another denoiser is to go on with it.
        log: its events.
        stored: what its ranks have stored and told of, but for checkpoints; some of it may be
            released by now.
        ranks: those that hold its state; None while it waits in the queue.
        held_bytes: what they keep of it now.
    """

    def __init__(
        self,
        call: FencedCall,
        request: DenoiseRequest,
        deadline: Deadline,
        *,
        arrival: int,
        size_bytes: int,
        trace: str | None = None,
        checkpoint_steps: int | None = 0,
    ) -> None:
        self.call = call
        self.request = request
        self._steps: dict[int, StepCompleted] = {}
        self.resumption = Resumption(checkpoint_steps, self._taken_over(request.resume_from))
        self.hands_over = False
        self.deadline = deadline
        self.trace = trace
        self.log = EventLog()
        self.stored: list[TensorRef] = []
        self.cancelled = False
        self.ranks: Ranks | None = None
        self.last_turn = 0
        self.total_steps = 0
        self.completed_steps = self.resumption.step
        self.held_bytes = 0
        self._told_steps = 0
        self._size_bytes = size_bytes
        self._arrival = arrival
        self._arrival_time = time.monotonic()
        self._batch_key: str | None = None
        self._degrees = ONE_RANK
        self._cache_support = CacheSupport()
        self._queue_seconds = 0.0
        self._run_seconds = 0.0
        self._transfer_seconds = 0.0

    @property
    def id(self) -> str:
        """Its own in the step loop: a request has one for each of its results."""
        return self.request.place

    @property
    def resident(self) -> bool:
        """Whether ranks hold its state."""
        return self.ranks is not None

    @property
    def leaving(self) -> Leaving | None:
        """Why it is to leave; None for a request that stays."""
        if self.deadline.remaining_seconds() == 0:
            return Leaving.DEADLINE_PASSED
        if self.call.superseded.done():
            return Leaving.SUPERSEDED
        return Leaving.CANCELLED if self.cancelled else None

    @property
    def size_bytes(self) -> int:
        """What the ranks keep of it, or will."""
        return max(self._size_bytes, self.held_bytes)

    @property
    def steps_left(self) -> int:
        """Steps that it still needs; none if it is to leave."""
        if self.leaving is not None:
            return 0
        # Known of a request that waits is what it asked for.
        total = self.total_steps or self.request.parameters.steps
        return max(0, total - self.completed_steps)

    def candidate(self) -> Candidate:
        """The request as admission and the policy see it."""
        return Candidate(
            request_id=self.id,
            arrival=self._arrival,
            resident=self.resident,
            leaving=self.leaving,
            last_turn=self.last_turn,
            size_bytes=self.size_bytes,
            done=self.resident and self.completed_steps == self.total_steps,
            batch_key=self._batch_key,
            hands_over=self.hands_over,
        )

    def begin(self, ranks: Ranks) -> None:
        """The request leaves the queue for these ranks."""
        self.ranks = ranks
        if self.log.events:
            return
        self._cache_support = ranks.ready.loaded.model.capabilities.cache_support
        self._queue_seconds = time.monotonic() - self._arrival_time
        self.log.append(DenoiseStarted())

    def prepared(self, reply: Prepared) -> None:
        """The ranks took it in."""
        self.total_steps = reply.total_steps
        self.completed_steps = reply.completed_steps
        self.held_bytes = reply.held_bytes
        self._batch_key = reply.batch_key
        self._degrees = reply.degrees
        self._run_seconds += reply.run_seconds
        self._transfer_seconds += reply.transfer_seconds

    def stepped(self, reply: Stepped) -> None:
        """The ranks took a step of it."""
        self.completed_steps = reply.step
        self.held_bytes = reply.held_bytes
        self._batch_key = reply.batch_key
        self._run_seconds += reply.seconds
        self.resumption.stepped(reply.seconds)
        if (checkpoint := self.resumption.take(reply.saved)) is not None:
            self._tell(checkpoint)
        if reply.step <= self._told_steps:
            # Taken again: its caller has had it.
            return
        self._told_steps = reply.step
        step = StepCompleted(
            reply.step, reply.total_steps, reply.sigma, reply.seconds, reply.decisions
        )
        self._steps[step.step] = step
        self.log.append(step)
        if reply.preview is not None:
            self.stored.append(reply.preview)
            self.log.append(PreviewLatents(reply.step, reply.preview))

    def saved(self, checkpoint: Checkpoint) -> None:
        """The ranks stored it before its next step, for another denoiser to go on."""
        self.resumption.saved(checkpoint)
        self._tell(checkpoint)

    def lost(self) -> bool:
        """Its ranks are gone; whether it waits for others, or ends."""
        goes_on = self.resumption.lost(self.completed_steps)
        if goes_on:
            self.requeue()
        return goes_on

    def requeue(self) -> None:
        """It waits again, for ranks that go on from where it was saved."""
        self.ranks = None
        self.completed_steps = self.resumption.step
        self.held_bytes = 0
        self._batch_key = None

    def finished(self, reply: Finished) -> None:
        """The ranks stored its latents, which are its caller's from now on.

        Raises:
            Superseded, Cancelled: it was given up meanwhile; nobody else knows of these latents.
        """
        assert reply.latents is not None
        self.stored.append(reply.latents)
        self.call.check()
        if self.cancelled:
            raise Cancelled("cancelled while the latents were being stored")
        timing = StageTiming(
            stage=Stage.DENOISER,
            task=StageTask.DENOISE,
            queue_seconds=self._queue_seconds,
            run_seconds=self._run_seconds + reply.run_seconds,
            transfer_seconds=self._transfer_seconds + reply.transfer_seconds,
        )
        self.log.append(
            Denoised(
                reply.latents,
                reply.latents_checksum_xxh3,
                timing,
                cache_statistics=self._cache_statistics(),
                degrees=self._degrees,
            )
        )

    def _taken_over(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """What an earlier call told, as the ranks are to have it."""
        if checkpoint is None:
            return None
        self._steps.update((step.step, step) for step in checkpoint.steps)
        return replace(checkpoint, steps=())

    def _tell(self, checkpoint: Checkpoint) -> None:
        """From now on it is its caller's, who may have another denoiser go on."""
        steps: Iterable[StepCompleted] = ()
        if not isinstance(self.request.parameters.cache, NoCache):
            done = range(1, checkpoint.completed_steps + 1)
            steps = (self._steps[step] for step in done if step in self._steps)
        self.log.append(replace(checkpoint, steps=tuple(steps)))

    def _cache_statistics(self) -> CacheStatistics | None:
        """What its cache did; None if it has none."""
        cache = self.request.parameters.cache
        if isinstance(cache, NoCache):
            return None
        steps = [self._steps[step] for step in sorted(self._steps)]
        return cache_statistics(steps, always_computed_share(cache, self._cache_support))
