"""Takes jobs in, and says what became of them."""

import asyncio
import math
import secrets
import time
import uuid
from dataclasses import dataclass, replace
from typing import Final

from services.gateway.access import Tenant
from services.gateway.byte_room import ByteRoom
from services.gateway.input_pictures import InputPictures
from services.gateway.quotas import Quotas
from services.gateway.received_images import ReceivedImage, loaded
from services.gateway.replicas import ReplicaPools
from services.jobs.fingerprint import fingerprint
from services.jobs.ledger import QUOTA_RETRY_SECONDS, JobLedger, Meaning
from services.jobs.record import JobKey, JobRecord, Submission
from services.observability.logs import get_logger
from services.rpc.stored import (
    StoredRequest,
    event_bytes,
    failure_of,
    request_bytes,
    request_of,
    result_of,
)
from triptych.domain.deadline import Deadline
from triptych.domain.errors import (
    DeadlineExceeded,
    LedgerUnavailable,
    QuotaExceeded,
    TriptychError,
)
from triptych.domain.events import Accepted, JobCancelled
from triptych.domain.generation import GenerationRequest, resolve
from triptych.domain.job import Job, JobPage, JobQuery, JobState, Scheduling

# A program whose numbers are doubles holds each as it is, and those of a thousand more pictures.
_DRAWN_SEEDS: Final = 2**53 - 1024
# Pictures outlive their job's deadline, for those who say that it has passed.
_GRACE_SECONDS: Final = 60.0
_CANCEL_TRIES: Final = 10

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What a tenant asks for.

    Attributes:
        request: what is to be made.
        images: its images.
        scheduling: when; its deadline is the job's.
        client_request_id: chosen by the client; empty for none.
        bound: whether the job ends with the stream that asked for it.
        traceparent: of the call; empty if nobody collects it.
    """

    request: GenerationRequest
    images: tuple[ReceivedImage, ...]
    scheduling: Scheduling
    client_request_id: str = ""
    bound: bool = False
    traceparent: str = ""


class JobDesk:
    """Between clients and the jobs' ledger.

    Args:
        ledger: where jobs are kept.
        pools: what can be served.
        quotas: what tenants have used.
        pictures: where input pictures are kept.
        transit_bytes: of pictures that are on their way there at once; others wait.
    """

    def __init__(
        self,
        ledger: JobLedger,
        pools: ReplicaPools,
        quotas: Quotas,
        pictures: InputPictures,
        transit_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._pools = pools
        self._quotas = quotas
        self._pictures = pictures
        self._transit = ByteRoom("picture_transit_bytes", transit_bytes)
        self._cancellations: set[asyncio.Task[None]] = set()

    async def check(self, tenant: Tenant) -> None:
        """Raises QuotaExceeded if no new job of the tenant's is taken in now, however small."""
        self._quotas.check(tenant)
        limit = tenant.quota.concurrent_jobs
        if limit is not None and await self._ledger.open_jobs(tenant.name) >= limit:
            raise QuotaExceeded("concurrent_jobs", limit, retry_after_seconds=QUOTA_RETRY_SECONDS)

    async def submit(self, tenant: Tenant, order: Order) -> JobRecord:
        """Takes a job in, or finds the one that the same order became before.

        Raises:
            InvalidRequest, ModelNotFound, QuotaExceeded, Unavailable: before any work starts.
            DeadlineExceeded: the deadline has passed.
            RequestIdReused, JobExpired, LedgerFull: see JobLedger.
        """
        model = self._pools.served(order.request.model or "")
        parameters = resolve(order.request, model, _drawn_seed)
        deadline = _deadline(order.scheduling)
        job_id = uuid.uuid4().hex
        async with loaded(order.images, self._transit, deadline) as pictures:
            told = ""
            if order.client_request_id:
                told = await asyncio.to_thread(fingerprint, order.request, pictures)
            kept = await self._pictures.keep(
                tenant,
                job_id,
                [image.described for image in order.images],
                pictures,
                deadline.remaining_seconds() + _GRACE_SECONDS,
            )
        stored = StoredRequest(parameters, kept, order.traceparent, order.bound)
        submission = Submission(
            JobKey(tenant.name, job_id),
            order.client_request_id,
            told,
            request_bytes(stored),
            order.scheduling,
            (event_bytes(Accepted(job_id, parameters)),),
            tenant.quota.concurrent_jobs,
        )
        try:
            submitted = await self._submitted(tenant, parameters.pixel_steps, submission)
        except BaseException:
            self._pictures.forget(kept)
            raise
        if submitted.key != submission.key:
            self._pictures.forget(kept)
        return submitted

    async def _submitted(
        self, tenant: Tenant, pixel_steps: int, submission: Submission
    ) -> JobRecord:
        self._quotas.take(tenant, pixel_steps)
        try:
            submitted = await self._ledger.submit(submission)
        except LedgerUnavailable:
            self._quotas.undo(tenant, pixel_steps)
            # It may have been taken in all the same.
            self.cancel_soon(submission.key)
            raise
        except BaseException:
            self._quotas.undo(tenant, pixel_steps)
            raise
        if submitted.meaning is not Meaning.NEW:
            self._quotas.undo(tenant, pixel_steps)
        return submitted.record

    async def get(self, key: JobKey) -> Job:
        """A job.

        Raises:
            JobNotFound, JobExpired: there is none.
        """
        return job_of(await self._ledger.get(key))

    async def list_jobs(self, tenant: str, query: JobQuery) -> JobPage:
        """A tenant's jobs, newest first.

        Raises:
            InvalidRequest: the page size or token is not allowed.
        """
        page = await self._ledger.list_jobs(
            tenant,
            states=query.states,
            page_size=query.page_size,
            page_token=query.page_token,
        )
        return JobPage(tuple(map(job_of, page.records)), page.next_page_token)

    async def cancel(self, key: JobKey) -> Job:
        """Ends a job that has not ended, wherever it is worked on.

        Raises:
            JobNotFound, JobExpired: there is none.
        """
        before = await self._ledger.get(key)
        if before.state.has_ended:
            return job_of(before)
        event = event_bytes(JobCancelled(before.completed_steps))
        after = await self._ledger.cancel(key, event)
        if before.state is JobState.QUEUED:
            # Nobody is at work on it who would notice.
            self._pictures.forget(request_of(after.parameters).images)
        return job_of(after)

    def cancel_soon(self, key: JobKey) -> None:
        """Cancels a job that nobody wants any more; returns at once."""
        task = asyncio.create_task(self._cancel(key))
        self._cancellations.add(task)
        task.add_done_callback(self._cancellations.discard)

    async def close(self) -> None:
        """Waits for the cancellations under way."""
        await asyncio.gather(*self._cancellations)

    async def _cancel(self, key: JobKey) -> None:
        for _ in range(_CANCEL_TRIES):
            try:
                await self.cancel(key)
            except LedgerUnavailable:
                await asyncio.sleep(1.0)
            except TriptychError as error:
                _log.info("not cancelled", job_id=key.job_id, cause=str(error))
                return
            else:
                return
        _log.warning("not cancelled: the jobs' ledger is not reached", job_id=key.job_id)


def job_of(record: JobRecord) -> Job:
    """A job as its tenant sees it."""
    parameters = request_of(record.parameters).parameters
    return Job(
        job_id=record.key.job_id,
        state=record.state,
        parameters=parameters,
        scheduling=record.scheduling,
        create_time=record.create_time,
        start_time=record.start_time,
        end_time=record.end_time,
        completed_steps=record.completed_steps,
        total_steps=parameters.steps * parameters.num_images,
        result=result_of(record.outcome) if record.state is JobState.SUCCEEDED else None,
        failure=failure_of(record.outcome) if record.state is JobState.FAILED else None,
        last_sequence=record.last_sequence,
    )


def within(scheduling: Scheduling, seconds: float) -> Scheduling:
    """The same, to end after so many seconds at the latest."""
    latest = time.time() + seconds
    own = math.inf if scheduling.deadline is None else scheduling.deadline
    return replace(scheduling, deadline=min(own, latest))


def _deadline(scheduling: Scheduling) -> Deadline:
    assert scheduling.deadline is not None
    left = scheduling.deadline - time.time()
    if left <= 0:
        raise DeadlineExceeded("scheduling.deadline has passed")
    return Deadline.after(left)


def _drawn_seed() -> int:
    return secrets.randbelow(_DRAWN_SEEDS)
