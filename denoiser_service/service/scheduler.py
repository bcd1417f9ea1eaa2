"""The step loop: one step of one request at a time, the next one chosen by the policy."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from denoiser_service.rank.commands import (
    Abort,
    Failed,
    Finish,
    Finished,
    Prepare,
    Prepared,
    Step,
    StepBatch,
    Stepped,
    SteppedBatch,
)
from denoiser_service.rank_group.port import RankGroup, error_of
from denoiser_service.service.admitted_request import Entry
from denoiser_service.service.footprint import Estimate, check_fits, size_bytes
from denoiser_service.service.policy import Order, Room, companions, entering, next_turn
from services.domain.stages import (
    Denoised,
    DenoiseEvent,
    DenoiseRequest,
    DenoiseStarted,
    PreviewLatents,
    StageTask,
    StageTiming,
    StepCompleted,
)
from services.loaded_models.stage_model import check_parameters
from services.observability.logs import get_logger
from services.rpc.process import run_until_first_ends
from triptych.domain.deadline import Deadline
from triptych.domain.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    QueueFull,
    RanksLost,
    StageUnavailable,
    TriptychError,
)
from triptych.domain.model import Stage

_log = get_logger(__name__)


class StepScheduler:
    """Interleaves requests at step boundaries; a request leaves at the next one when told to.

    Args:
        ranks: who runs the steps.
        order: how residents share the ranks.
        room: what the ranks hold at once.
        estimate: what they will keep of a request.
        max_queued: requests that may wait beyond that.
        max_step_batch: requests that may take a step together; 1 for each by itself.
        trace_steps: whether each step that a request takes by itself is a span of every rank.
        discard: releases what a request stored; blocking, called on a thread.
    """

    def __init__(
        self,
        ranks: RankGroup,
        *,
        order: Order,
        room: Room,
        estimate: Estimate,
        max_queued: int,
        discard: Callable[[str, str], object],
        max_step_batch: int = 1,
        trace_steps: bool = False,
    ) -> None:
        self._ranks = ranks
        self._order = order
        self.room = room
        self._estimate = estimate
        self.max_queued = max_queued
        self._discard = discard
        self._max_step_batch = max_step_batch
        self._trace_steps = trace_steps
        self._entries: dict[str, Entry] = {}
        self._changed = asyncio.Event()
        self._releases: set[asyncio.Task[None]] = set()
        self._turns = 0
        self._arrivals = 0
        self._step_seconds = 1.0
        self.draining = False
        self.completed_steps = 0

    @property
    def running(self) -> int:
        """Requests whose state the ranks hold."""
        # A copy: metrics are read on another thread.
        return sum(each.resident for each in tuple(self._entries.values()))

    @property
    def held_bytes(self) -> int:
        """What the ranks keep of all requests now."""
        return sum(each.held_bytes for each in tuple(self._entries.values()))

    @property
    def reserved_bytes(self) -> int:
        """What they keep of them at most."""
        return sum(each.size_bytes for each in tuple(self._entries.values()) if each.resident)

    @property
    def queued(self) -> int:
        """Requests that wait for their first turn."""
        return len(self._entries) - self.running

    @property
    def backlog_seconds(self) -> float:
        """What all steps that are left will take, as long as lately measured, at first a second."""
        return self._step_seconds * sum(each.steps_left for each in tuple(self._entries.values()))

    async def denoise(
        self, request: DenoiseRequest, deadline: Deadline, trace: str | None = None
    ) -> AsyncGenerator[DenoiseEvent, None]:
        """Yields DenoiseStarted, a StepCompleted per step, then Denoised. Closing it cancels.

        Args:
            request: what to denoise.
            deadline: when to give up.
            trace: traceparent of the span that the ranks' spans belong to.

        Raises:
            StageUnavailable: draining.
            ModelNotFound, InvalidRequest: not this model's, outside its limits, or it would not fit
                if it had the ranks for itself.
            QueueFull: too many wait already.
            RanksLost: a rank died under the request.
            DeadlineExceeded, Cancelled, TriptychError: as they say.
        """
        entry = self._admit(request, deadline, trace)
        try:
            while True:
                event = await entry.events.get()
                if isinstance(event, TriptychError):
                    raise event
                yield event
                if isinstance(event, Denoised):
                    return
        finally:
            entry.cancelled = True
            self._changed.set()

    def cancel(self, request_id: str) -> int:
        """Stops a request at the next step; returns the steps it has done.

        Raises:
            NotFound: no such request is here.
        """
        if request_id not in self._entries:
            raise NotFound(f"request_id: {request_id} is not being denoised here")
        entry = self._entries[request_id]
        entry.cancelled = True
        self._changed.set()
        return entry.completed_steps

    async def run(self) -> None:
        """The loop; runs until it is cancelled."""
        while True:
            self._changed.clear()
            self._drop_stale()
            candidates = [each.candidate() for each in self._entries.values()]
            batching = self._max_step_batch > 1
            chosen = next_turn(candidates, self._order, self.room, batching=batching)
            if chosen is None:
                await self._changed.wait()
            elif self._ranks.ready is None and not self._entries[chosen].candidate().leaving:
                # While the ranks are being rebuilt, those who give up must not fill the queue.
                await run_until_first_ends(self._ranks.wait_ready(), self._changed.wait())
            else:
                others = companions(chosen, candidates, self._order, self._max_step_batch)
                await self._turn(self._entries[chosen], [self._entries[each] for each in others])

    def _admit(self, request: DenoiseRequest, deadline: Deadline, trace: str | None) -> Entry:
        if self.draining:
            raise StageUnavailable("the denoiser is draining; repeat the request elsewhere")
        if request.request_id in self._entries:
            raise InvalidRequest.of("request_id", "is being denoised already")
        self._check(request)
        residency = self._estimate(request)
        if self.room.size_bytes is not None:
            check_fits(request, residency, self.room.size_bytes)
        needed = size_bytes(residency, request.parameters.cache)
        entry = Entry(request, deadline, self._arrivals + 1, needed, trace)
        self._check_room(entry)
        self._arrivals += 1
        # As if it had had a turn just now: newcomers do not overtake those who take turns.
        entry.last_turn = self._turns
        self._entries[request.request_id] = entry
        self._changed.set()
        return entry

    def _check(self, request: DenoiseRequest) -> None:
        """Refuses here what every rank would; its model's limits once they are known."""
        request.check_images()
        if self._ranks.ready is not None:
            check_parameters(request.parameters, self._ranks.ready.loaded.model)

    def _check_room(self, newcomer: Entry) -> None:
        candidates = [each.candidate() for each in (*self._entries.values(), newcomer)]
        waiting = sum(not each.resident for each in candidates)
        if waiting - len(entering(candidates, self.room)) > self.max_queued:
            retry = self._step_seconds * newcomer.request.parameters.steps
            raise QueueFull(Stage.DENOISER, self.max_queued, retry)

    async def _turn(self, entry: Entry, others: Sequence[Entry]) -> None:
        self._turns += 1
        for each in (entry, *others):
            each.last_turn = self._turns
        try:
            if entry.candidate().leaving:
                await self._leave(entry)
            elif not entry.resident:
                await self._prepare(entry)
            elif entry.completed_steps < entry.total_steps:
                await self._step([entry, *others])
            else:
                await self._finish(entry)
        except RanksLost as error:
            self._lose([each for each in self._entries.values() if each.resident], error)
        except TriptychError as error:
            for each in (entry, *others):
                self._end(each, error)

    async def _leave(self, entry: Entry) -> None:
        if entry.resident:
            await self._ranks.execute(Abort(request_id=entry.request.request_id))
        doing = f"denoising; {entry.completed_steps} of {entry.total_steps} steps were done"
        late = entry.deadline.remaining_seconds() == 0
        self._end(
            entry,
            DeadlineExceeded(f"the deadline passed while {doing}")
            if late
            else Cancelled(f"cancelled while {doing}"),
        )
        # Its caller may be gone without a word. Not awaited: a store that is slow to answer must
        # not hold up the others.
        task = asyncio.create_task(self._release(entry.request))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _prepare(self, entry: Entry) -> None:
        # The loop looked a moment ago.
        assert self._ranks.ready is not None
        model = self._ranks.ready.loaded.model
        entry.begin(self._ranks.generation, model.capabilities.cache_support)
        request = entry.request
        # It may have come while the ranks were being rebuilt.
        self._check(request)
        entry.events.put_nowait(DenoiseStarted())
        prepared = await self._ranks.execute(
            Prepare(
                request_id=request.request_id,
                trace=entry.trace,
                tenant=request.tenant,
                parameters=request.parameters,
                conditioning=request.conditioning,
                image_latents=request.image_latents,
                shares_steps=self._max_step_batch > 1,
                remaining_seconds=entry.deadline.remaining_seconds(),
            )
        )
        assert isinstance(prepared, Prepared)
        entry.total_steps = prepared.total_steps
        entry.degrees = prepared.degrees
        entry.held_bytes = prepared.held_bytes
        entry.batch_key = prepared.batch_key
        entry.run_seconds += prepared.run_seconds
        entry.transfer_seconds += prepared.transfer_seconds

    async def _step(self, entries: Sequence[Entry]) -> None:
        for entry, reply in zip(entries, await self._stepped(entries), strict=True):
            if isinstance(reply, Failed):
                self._end(entry, error_of(reply))
            else:
                self._count(entry, reply, shared_by=len(entries))

    async def _stepped(self, entries: Sequence[Entry]) -> Sequence[Stepped | Failed]:
        first, *others = (each.request.request_id for each in entries)
        if not others:
            trace = entries[0].trace if self._trace_steps else None
            stepped = await self._ranks.execute(Step(request_id=first, trace=trace))
            assert isinstance(stepped, Stepped)
            return [stepped]
        batch = await self._ranks.execute(StepBatch(request_ids=(first, *others)))
        assert isinstance(batch, SteppedBatch)
        return batch.replies

    def _count(self, entry: Entry, stepped: Stepped, shared_by: int) -> None:
        self.completed_steps += 1
        self._step_seconds += 0.2 * (stepped.seconds / shared_by - self._step_seconds)
        entry.completed_steps = stepped.step
        entry.held_bytes = stepped.held_bytes
        entry.batch_key = stepped.batch_key
        entry.run_seconds += stepped.seconds
        step = StepCompleted(
            stepped.step,
            stepped.total_steps,
            stepped.sigma,
            stepped.seconds,
            stepped.decisions,
        )
        entry.steps.append(step)
        entry.events.put_nowait(step)
        if stepped.preview is not None:
            entry.events.put_nowait(PreviewLatents(stepped.step, stepped.preview))

    async def _finish(self, entry: Entry) -> None:
        finish = Finish(request_id=entry.request.request_id, trace=entry.trace)
        finished = await self._ranks.execute(finish)
        assert isinstance(finished, Finished)
        assert finished.latents is not None
        timing = StageTiming(
            stage=Stage.DENOISER,
            task=StageTask.DENOISE,
            queue_seconds=entry.queue_seconds,
            run_seconds=entry.run_seconds + finished.run_seconds,
            transfer_seconds=entry.transfer_seconds + finished.transfer_seconds,
        )
        if entry.cancelled:
            # It was cancelled during the last command; nobody else knows of these latents.
            await self._release(entry.request)
            raise Cancelled("cancelled while the latents were being stored")
        denoised = Denoised(
            finished.latents,
            finished.latents_checksum_xxh3,
            timing,
            cache_statistics=entry.cache_statistics(),
            degrees=entry.degrees,
        )
        entry.events.put_nowait(denoised)
        del self._entries[entry.request.request_id]

    async def _release(self, request: DenoiseRequest) -> None:
        """Releases all that was stored for a request that is over."""
        try:
            await asyncio.to_thread(self._discard, request.tenant, request.request_id)
        except TriptychError as error:
            _log.warning("not released, will expire", cause=str(error))

    def _end(self, entry: Entry, error: TriptychError) -> None:
        entry.events.put_nowait(error)
        del self._entries[entry.request.request_id]

    def _drop_stale(self) -> None:
        """Ends those whose ranks died between two commands: no rebuilt rank knows of them."""
        generation = None if self._ranks.ready is None else self._ranks.generation
        stale = [
            each
            for each in self._entries.values()
            if each.resident and each.generation != generation
        ]
        if stale:
            self._lose(stale, RanksLost("a rank died; repeat the request"))

    def _lose(self, entries: list[Entry], error: RanksLost) -> None:
        # Those still in the queue lost nothing: they wait for the rebuilt ranks.
        _log.warning("ranks lost", requests=len(entries), cause=str(error))
        for entry in entries:
            self._end(entry, error)
