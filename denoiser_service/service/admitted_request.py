"""One request inside the scheduler."""

import asyncio
import time

from denoiser_service.service.cache_statistics import always_computed_share, cache_statistics
from denoiser_service.service.policy import Candidate
from services.domain.stages import (
    CacheStatistics,
    DenoiseEvent,
    DenoiseRequest,
    StepCompleted,
)
from triptych.domain.acceleration import CacheSupport, NoCache
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TriptychError
from triptych.domain.parallel import ONE_RANK


class Entry:
    """A request from its arrival until its caller has its last event.

    Args:
        request: what to denoise.
        deadline: when to give up.
        arrival: a number that grows with every request.
        size_bytes: what the ranks will keep of it, at most.
        trace: traceparent of the span that its commands belong to; None if nobody collects it.

    Attributes:
        held_bytes: what they keep of it now.
        batch_key: see Prepared.
        generation: of the ranks that hold its state; None while it waits in the queue.
        cache_support: of the model that denoises it; known with the generation.
        steps: those that are done.
    """

    def __init__(
        self,
        request: DenoiseRequest,
        deadline: Deadline,
        arrival: int,
        size_bytes: int,
        trace: str | None = None,
    ) -> None:
        self.request = request
        self.trace = trace
        self.deadline = deadline
        self.events: asyncio.Queue[DenoiseEvent | TriptychError] = asyncio.Queue()
        self.cancelled = False
        self.generation: int | None = None
        self.total_steps = 0
        self.completed_steps = 0
        self.last_turn = 0
        self.run_seconds = 0.0
        self.degrees = ONE_RANK
        self.transfer_seconds = 0.0
        self.held_bytes = 0
        self.batch_key: str | None = None
        self._size_bytes = size_bytes
        self._arrival = arrival
        self._arrival_time = time.monotonic()
        self.queue_seconds = 0.0
        self.cache_support = CacheSupport()
        self.steps: list[StepCompleted] = []

    def candidate(self) -> Candidate:
        """The request as the policy sees it."""
        return Candidate(
            request_id=self.request.request_id,
            arrival=self._arrival,
            resident=self.resident,
            leaving=self.cancelled or self.deadline.remaining_seconds() == 0,
            last_turn=self.last_turn,
            size_bytes=self.size_bytes,
            done=self.resident and self.completed_steps == self.total_steps,
            batch_key=self.batch_key,
        )

    @property
    def size_bytes(self) -> int:
        """What the ranks keep of it, or will."""
        return max(self._size_bytes, self.held_bytes)

    @property
    def resident(self) -> bool:
        """Whether ranks hold its state."""
        return self.generation is not None

    @property
    def steps_left(self) -> int:
        """Steps that it still needs; none if it is to leave."""
        if self.candidate().leaving:
            return 0
        # Known of a request that waits is what it asked for.
        total = self.total_steps or self.request.parameters.steps
        return total - self.completed_steps

    def cache_statistics(self) -> CacheStatistics | None:
        """What its cache did; None if it has none."""
        cache = self.request.parameters.cache
        if isinstance(cache, NoCache):
            return None
        return cache_statistics(self.steps, always_computed_share(cache, self.cache_support))

    def begin(self, generation: int, cache_support: CacheSupport) -> None:
        """The request leaves the queue for the ranks of this generation."""
        self.generation = generation
        self.cache_support = cache_support
        self.queue_seconds = time.monotonic() - self._arrival_time
