"""Works on jobs, whoever took them in."""

import asyncio
import math
import time
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, NoReturn

from services.gateway.access import Access
from services.gateway.byte_room import ByteRoom
from services.gateway.input_pictures import InputPictures
from services.gateway.job import Assignment, Job
from services.gateway.quotas import Quotas
from services.gateway.replicas import ReplicaPools
from services.gateway.results import Results
from services.gateway.retries import JobFailed
from services.gateway.settings import PipelineSettings
from services.jobs.bounds import end_time, why_not_run
from services.jobs.journal import Journal
from services.jobs.ledger import Claim, JobLedger
from services.observability import tracing
from services.observability.logs import bind_request, get_logger
from services.observability.tracked import GATEWAY, JOB, Tracked
from services.rpc.status import remote_failure
from services.rpc.stored import (
    StoredRequest,
    event_bytes,
    failure_bytes,
    request_of,
    result_bytes,
)
from triptych.domain.deadline import Deadline, checked_timeout
from triptych.domain.errors import (
    Cancelled,
    ClaimLost,
    LedgerFull,
    LedgerUnavailable,
    RemoteFailure,
    TriptychError,
)
from triptych.domain.failure import Failure
from triptych.domain.generation_result import GenerationResult
from triptych.domain.job import JobState

# What this process keeps of a deadline, so that it can still say that it passed.
_HOP_SECONDS: Final = 0.05
# How often it is asked for jobs that nobody said anything of, such as those of a dead worker.
_LOOK_SECONDS: Final = 1.0
_RELEASE_SECONDS: Final = 5.0
_GIVE_BACK_SECONDS: Final = 2.0

_log = get_logger(__name__)


class Runner:
    """Claims jobs and carries them out, some at once.

    Args:
        ledger: where jobs are kept.
        pools: the stages' replicas.
        results: where artifacts are kept.
        pictures: where input pictures are.
        quotas: what tenants get back of what was not done.
        access: who the tenants are.
        settings: how many jobs at once, how long a lease is.
        shared: whether other processes work on the ledger's jobs, or this one will again.
    """

    def __init__(
        self,
        ledger: JobLedger,
        pools: ReplicaPools,
        results: Results,
        pictures: InputPictures,
        quotas: Quotas,
        access: Access,
        settings: PipelineSettings,
        *,
        shared: bool,
    ) -> None:
        self._ledger = ledger
        self._pools = pools
        self._results = results
        self._pictures = pictures
        self._quotas = quotas
        self._access = access
        self._lease_seconds = settings.job_lease_seconds
        self._transit = ByteRoom("picture_transit_bytes", settings.picture_transit_bytes)
        self._places = asyncio.Semaphore(settings.max_running_jobs)
        self._shared = shared
        self._draining = False
        self._worker = uuid.uuid4().hex
        self._working: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> NoReturn:
        """Claims one job after the other; runs until it is cancelled."""
        while True:
            await self._places.acquire()
            claim = await self._claimed()
            task = asyncio.create_task(self._work(claim))
            self._working.add(task)
            task.add_done_callback(self._left)

    def drain(self) -> None:
        """Begins no other jobs, if there are others who do; those of this process go on."""
        self._draining = self._shared

    async def finish(self, seconds: float) -> None:
        """Waits until what is at work here has ended, and gives back what has not by then."""
        if self._working:
            await asyncio.wait(self._working, timeout=seconds)
        await self.close()

    async def close(self) -> None:
        """Gives back what is at work, and waits for the releases under way. Idempotent."""
        working = tuple(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await asyncio.gather(*self._background)

    async def _claimed(self) -> Claim:
        while True:
            if self._draining:
                await asyncio.Event().wait()
            try:
                claim = await self._ledger.claim(self._worker, self._lease_seconds)
                if claim is not None:
                    return claim
                await self._ledger.wait_for_work(_LOOK_SECONDS)
            except (LedgerUnavailable, LedgerFull) as error:
                _log.warning("no jobs claimed", cause=str(error))
                await asyncio.sleep(_LOOK_SECONDS)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._places.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease will end, and the job is claimed again, here or elsewhere.
            _log.error("a job was left", exc_info=error)

    async def _work(self, claim: Claim) -> None:
        bind_request(claim.key.job_id)
        request = request_of(claim.record.parameters)
        tracing.attach_remote([(tracing.TRACEPARENT, request.traceparent)])
        async with Journal(self._ledger, claim, self._lease_seconds) as journal:
            work = asyncio.create_task(self._carried_out(claim, request, journal))
            try:
                either: set[asyncio.Future[Any]] = {work, journal.lost}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                await _ended(work)
                if self._shared:
                    await self._given_back(journal)
                raise
            if not work.done():
                await _ended(work)
            lost = journal.lost.result() if journal.lost.done() else None
        self._forget(claim, request, work, lost)

    def _forget(
        self,
        claim: Claim,
        request: StoredRequest,
        work: asyncio.Task[None],
        lost: Exception | None,
    ) -> None:
        """Has everything released that is left of a job that has ended."""
        error = None if work.cancelled() else work.exception()
        if isinstance(lost or error, ClaimLost):
            # Whoever has it now is at work with what is stored for it.
            _log.info("claim lost", cause=str(lost or error))
            return
        self._pictures.forget(request.images)
        if lost is not None or error is not None:
            self._in_background(self._released(claim, request.parameters.model))
        if error is not None and not isinstance(error, Cancelled):
            raise error

    async def _carried_out(self, claim: Claim, request: StoredRequest, journal: Journal) -> None:
        if request.bound:
            # Its caller's stream is counted.
            await self._ended_by(claim, request, journal)
            return
        with suppress(RemoteFailure), Tracked(GATEWAY, JOB) as tracked:
            tracing.attach(tracked.span)
            tracked.span.set_attribute("triptych.job_id", claim.key.job_id)
            tracked.begin(request.parameters.model)
            failure = await self._ended_by(claim, request, journal)
            if failure is not None:
                # For the count alone: the job's watchers are told by its last event.
                raise remote_failure(failure)

    async def _ended_by(
        self, claim: Claim, request: StoredRequest, journal: Journal
    ) -> Failure | None:
        """Does the job and writes how it ended; returns why it failed, if it did."""
        try:
            result = await self._done(claim, request, journal)
        except JobFailed as failed:
            failure = failed.failure
        except (ClaimLost, Cancelled):
            raise
        except Exception:  # noqa: BLE001 - a defect must reach the log whole and the client bare
            _log.exception("a job failed")
            failure = Failure("INTERNAL", "INTERNAL", "the gateway failed at the job")
        else:
            await self._release_in_time(claim, request.parameters.model)
            await journal.finish(JobState.SUCCEEDED, result_bytes(result), [event_bytes(result)])
            return None
        tenant, asked = self._access.named(claim.key.tenant), request.parameters
        self._quotas.give_back(tenant, asked.pixel_steps, failure.status)
        self._in_background(self._released(claim, asked.model))
        await journal.finish(JobState.FAILED, failure_bytes(failure), [event_bytes(failure)])
        return failure

    async def _done(
        self, claim: Claim, request: StoredRequest, journal: Journal
    ) -> GenerationResult:
        now = time.time()
        if (reason := why_not_run(claim.record, now)) is not None:
            raise JobFailed.of(reason)
        end = end_time(claim.record)
        seconds = checked_timeout(math.inf if end is None else end - now)
        assignment = Assignment(
            claim,
            request.parameters,
            self._pictures.received(request.parameters.images, request.images),
            self._access.named(claim.key.tenant),
            Deadline.after(seconds).earlier(_HOP_SECONDS),
        )
        job = Job(assignment, journal, self._pools, self._results, self._transit)
        return await job.run()

    async def _release_in_time(self, claim: Claim, model: str) -> None:
        """Waits for the release, but not so long that the result would come too late."""
        release = self._in_background(self._released(claim, model))
        end = end_time(claim.record)
        await asyncio.wait({release}, timeout=None if end is None else max(0, end - time.time()))

    async def _released(self, claim: Claim, model: str) -> None:
        deadline = Deadline.after(_RELEASE_SECONDS)
        answers = await asyncio.gather(
            *(
                stage.release(claim.key.tenant, claim.key.job_id, deadline)
                for stage in self._pools.releasing(model)
            ),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, TriptychError):
                _log.warning("not released, will expire", cause=str(answer))
            elif isinstance(answer, BaseException):
                raise answer

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _given_back(self, journal: Journal) -> None:
        try:
            async with asyncio.timeout(_GIVE_BACK_SECONDS):
                await journal.give_back()
        except (TimeoutError, ClaimLost, Cancelled) as error:
            _log.warning("a job was not given back; its lease will end", cause=str(error))


async def _ended(work: asyncio.Task[Any]) -> None:
    work.cancel()
    await asyncio.wait({work})
