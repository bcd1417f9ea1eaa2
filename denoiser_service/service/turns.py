"""Turns as the ranks execute them: each is one command, and what came of it is logged."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from denoiser_service.rank import commands
from denoiser_service.rank_group.port import RankGroup, Ranks
from denoiser_service.service.admission import check
from denoiser_service.service.admitted_request import AdmittedRequest
from denoiser_service.service.policy import (
    Drop,
    Finish,
    HandOver,
    Prepare,
    Step,
    Turn,
    concerned,
)
from denoiser_service.service.room import Leaving
from services.domain.tensor_ref import TensorRef
from services.observability.logs import get_logger
from services.observability.metrics import RESUMPTIONS
from triptych.domain.errors import (
    Cancelled,
    DeadlineExceeded,
    HandedOver,
    RanksLost,
    Superseded,
    TriptychError,
)

Release = Callable[[TensorRef], Awaitable[object]]
"""Ends the life of stored tensors."""

_log = get_logger(__name__)


class Turns:
    """Runs one turn after the other.

    Args:
        ranks: that execute them.
        release: called for what was stored and nobody waits for any more.
        shares_steps: whether requests may take steps together.
        trace_steps: whether each step that a request takes by itself is a span of every rank.

    Attributes:
        completed_steps: of all requests.
        step_seconds: what a step takes, smoothed; at first a second.
    """

    def __init__(
        self,
        ranks: RankGroup,
        release: Release,
        *,
        shares_steps: bool = False,
        trace_steps: bool = False,
    ) -> None:
        self._group = ranks
        self._release = release
        self._shares_steps = shares_steps
        self._trace_steps = trace_steps
        self._releases: set[asyncio.Task[None]] = set()
        self.completed_steps = 0
        self.step_seconds = 1.0

    async def run(self, turn: Turn, requests: Mapping[str, AdmittedRequest]) -> None:
        """Runs a turn; what goes wrong ends the requests that it concerns.

        Args:
            turn: what to do.
            requests: all that are here, by id.
        """
        having = [requests[request_id] for request_id in concerned(turn)]
        try:
            await self._execute(turn, having)
        except RanksLost as error:
            _lose(requests.values(), error)
        except TriptychError as error:
            for request in having:
                request.log.fail(error)

    async def _execute(self, turn: Turn, having: Sequence[AdmittedRequest]) -> None:
        match turn:
            case Drop():
                await self._drop(having[0], turn.reason)
            case Prepare():
                await self._prepare(having[0])
            case Step():
                await self._step(having)
            case Finish():
                await self._finish(having[0])
            case HandOver():
                await self._hand_over(having[0])

    def end_stale(self, requests: Iterable[AdmittedRequest]) -> None:
        """Ends, or queues again, those whose ranks died between two commands."""
        stale = [request for request in requests if request.ranks is not self._group.current]
        _lose(stale, RanksLost("a rank died; repeat the request"))

    def release_later(self, admitted: AdmittedRequest) -> None:
        """Releases what a request has stored itself; a store that is slow holds up no other.

        Not the last checkpoint, which was told: it is for whoever goes on.
        """
        task = asyncio.create_task(self._released(admitted))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _released(self, admitted: AdmittedRequest) -> None:
        for ref in admitted.stored:
            try:
                await self._release(ref)
            except TriptychError as error:
                _log.warning("not released, will expire", request_id=admitted.id, cause=str(error))

    async def _prepare(self, admitted: AdmittedRequest) -> None:
        request, ranks = admitted.request, self._group.current
        # The loop looked a moment ago.
        assert ranks is not None
        # It may have come while the ranks were being rebuilt.
        check(request, ranks.ready.loaded.model)
        resume = admitted.resumption.checkpoint
        admitted.begin(ranks)
        preparing = ranks.execute(
            commands.Prepare(
                request_id=request.place,
                stored_as=request.request_id,
                image_index=request.image_index,
                trace=admitted.trace,
                tenant=request.tenant,
                parameters=request.parameters,
                conditioning=request.conditioning,
                image_latents=request.image_latents,
                shares_steps=self._shares_steps,
                remaining_seconds=admitted.deadline.remaining_seconds(),
                resume=resume,
            )
        )
        try:
            prepared = await preparing
        except RanksLost:
            raise
        except TriptychError as error:
            if resume is None:
                raise
            # It may be gone; the request is not.
            _log.warning("not resumed", request_id=admitted.id, cause=str(error))
            admitted.resumption.forget()
            admitted.requeue()
            return
        assert isinstance(prepared, commands.Prepared)
        admitted.prepared(prepared)
        decision = "recomputed" if prepared.recomputes else "restored"
        # Nothing is added for the others, so that it is there before the first one that is.
        model = ranks.ready.loaded.model.name
        RESUMPTIONS.add(int(resume is not None), model=model, decision=decision)
        if resume is not None:
            step = resume.completed_steps
            _log.info("resumed", request_id=admitted.id, step=step, cache=decision)

    async def _step(self, having: Sequence[AdmittedRequest]) -> None:
        replies = await (self._one_step(having[0]) if len(having) == 1 else self._batch(having))
        for request, reply in zip(having, replies, strict=True):
            if isinstance(reply, commands.Failed):
                request.log.fail(reply.error())
                continue
            self.completed_steps += 1
            self.step_seconds += 0.2 * (reply.seconds / len(having) - self.step_seconds)
            request.stepped(reply)
            if request.resumption.due(request.completed_steps, request.total_steps):
                await self._save(request)

    async def _save(self, admitted: AdmittedRequest) -> None:
        """Has the ranks begin to save a request; they say with a later step when it is stored."""
        resumption = admitted.resumption
        resumption.begin(admitted.completed_steps)
        save = commands.Save(request_id=admitted.id, kept=resumption.kept, wait=False)
        try:
            await _ranks(admitted).execute(save)
        except RanksLost:
            raise
        except TriptychError as error:
            _log.warning("not saved", request_id=admitted.id, cause=str(error))

    async def _one_step(self, request: AdmittedRequest) -> Sequence[commands.Stepped]:
        trace = request.trace if self._trace_steps else None
        stepped = await _ranks(request).execute(commands.Step(request_id=request.id, trace=trace))
        assert isinstance(stepped, commands.Stepped)
        return [stepped]

    async def _batch(
        self, having: Sequence[AdmittedRequest]
    ) -> Sequence[commands.Stepped | commands.Failed]:
        ids = tuple(request.id for request in having)
        try:
            batch = await _ranks(having[0]).execute(commands.StepBatch(request_ids=ids))
        except RanksLost:
            raise
        except TriptychError:
            # The ranks may hold them still, since the step failed as a whole.
            for request in having:
                await _abort(request)
            raise
        assert isinstance(batch, commands.SteppedBatch)
        return batch.replies

    async def _finish(self, admitted: AdmittedRequest) -> None:
        kept = admitted.resumption.kept
        finish = commands.Finish(request_id=admitted.id, trace=admitted.trace, kept=kept)
        finished = await _ranks(admitted).execute(finish)
        assert isinstance(finished, commands.Finished)
        admitted.finished(finished)

    async def _hand_over(self, admitted: AdmittedRequest) -> None:
        """Leaves a request to another denoiser; one that cannot be saved is finished here."""
        if admitted.resident:
            if admitted.completed_steps > admitted.resumption.step:
                kept = admitted.resumption.kept
                save = commands.Save(request_id=admitted.id, kept=kept)
                try:
                    saved = await _ranks(admitted).execute(save)
                except RanksLost:
                    raise
                except TriptychError as error:
                    _log.warning("not handed over", request_id=admitted.id, cause=str(error))
                    admitted.hands_over = False
                    return
                assert isinstance(saved, commands.Saved)
                assert saved.checkpoint is not None
                admitted.saved(saved.checkpoint)
            await _abort(admitted)
        _log.info("handed over", request_id=admitted.id, step=admitted.resumption.step)
        admitted.log.fail(HandedOver("the denoiser is draining; another one goes on"))

    async def _drop(self, admitted: AdmittedRequest, reason: Leaving) -> None:
        try:
            if admitted.resident:
                await _abort(admitted)
        finally:
            doing = (
                f"denoising; {admitted.completed_steps} of {admitted.total_steps} steps were done"
            )
            admitted.log.fail(_ending(admitted, reason, doing))


def _ending(admitted: AdmittedRequest, reason: Leaving, doing: str) -> TriptychError:
    match reason:
        case Leaving.DEADLINE_PASSED:
            return DeadlineExceeded(f"the deadline passed while {doing}")
        case Leaving.SUPERSEDED:
            return Superseded(admitted.request.request_id, admitted.request.attempt)
        case Leaving.CANCELLED:
            return Cancelled(f"cancelled while {doing}")


def _ranks(admitted: AdmittedRequest) -> Ranks:
    assert admitted.ranks is not None
    return admitted.ranks


async def _abort(admitted: AdmittedRequest) -> None:
    """Has the ranks forget a request; what they cannot forget any more, they do not hold."""
    try:
        kept = admitted.resumption.kept
        await _ranks(admitted).execute(commands.Abort(request_id=admitted.id, kept=kept))
    except RanksLost:
        raise
    except TriptychError as error:
        _log.warning("not aborted", request_id=admitted.id, cause=str(error))


def _lose(requests: Iterable[AdmittedRequest], error: RanksLost) -> None:
    """Ends the residents among them, or queues them again if they were to be saved.

    Queued requests lost nothing and wait for other ranks.
    """
    lost = [request for request in requests if request.resident and not request.log.ended]
    ending = [request for request in lost if not request.lost()]
    if lost:
        _log.warning("ranks lost", requests=len(lost), ending=len(ending), cause=str(error))
    for request in ending:
        request.log.fail(error)
