"""Where jobs are kept: who submitted them, who works on them, what happened to them."""

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NoReturn, Protocol

from services.jobs.record import JobEvent, JobKey, JobRecord, OutputSlot, Submission
from triptych.domain.errors import InvalidRequest
from triptych.domain.job import JobState
from triptych.domain.stage_timing import StageTask

MAX_PAGE_SIZE: Final = 1000
DEFAULT_PAGE_SIZE: Final = 50
QUOTA_RETRY_SECONDS: Final = 1.0


class Meaning(Enum):
    """What a submission turned out to be."""

    NEW = "new"
    ATTACHED = "attached"
    """It means a job that has not ended."""
    REPLAYED = "replayed"
    """It means a job that has ended."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job that a submission means; its key may be another one than the submission's."""

    record: JobRecord
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to write to a job.

    Attributes:
        token: the fencing token; a later claim of the job has a higher one.
        record: as it was when it was claimed.
    """

    key: JobKey
    token: int
    worker: str
    record: JobRecord


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of a tenant's jobs, newest first.

    Attributes:
        next_page_token: of the page after it; empty if there is none. A page may have fewer jobs
            than were asked for, or none, and yet have a next one.
    """

    records: tuple[JobRecord, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class LedgerUsage:
    """What a ledger holds.

    Attributes:
        queued: jobs that can be claimed.
        held: jobs that are leased, or wait until they may be tried again.
        ended: jobs that have ended and are kept.
        tombstones: jobs that are known to have been there.
        size_bytes: of all jobs, about.
    """

    queued: int
    held: int
    ended: int
    tombstones: int
    size_bytes: int


class JobLedger(Protocol):
    """Where jobs are kept. Every method may raise LedgerUnavailable, and can then be repeated.

    A write of a claim raises it only if it was not carried out: what is repeated is written once.

    What a method has returned from is accepted: see the implementation for what it survives.

    A claim's writes are refused with ClaimLost once another worker has claimed the job, once the
    lease's end was noticed or the claim given back, and with Cancelled once the job was cancelled.
    Writes of one claim must not overlap, except with `renew` and `wait_lost`. With each of them
    the steps may be told that are done by then, of all results together.
    """

    async def submit(self, submission: Submission) -> Submitted:
        """Takes a job in, or finds the one of the same tenant and client_request_id.

        Raises:
            RequestIdReused: that one has another fingerprint.
            JobExpired: that one is no longer kept.
            QuotaExceeded: the tenant has as many open jobs as the submission allows.
            LedgerFull: there is no room, even without all ended jobs.
        """
        ...

    async def open_jobs(self, tenant: str) -> int:
        """How many of a tenant's jobs have not ended."""
        ...

    async def claim(self, worker: str, lease_seconds: float) -> Claim | None:
        """Gives the job that is next, if one is queued; a job whose lease has ended is queued.

        One whose deadline has passed is given as well: its worker ends it.
        """
        ...

    async def renew(self, claim: Claim, lease_seconds: float) -> None:
        """Lets the lease end so many seconds from now."""
        ...

    async def wait_lost(self, claim: Claim) -> NoReturn:
        """Waits until the claim's writes would be refused, and writes nothing.

        Raises:
            ClaimLost: another worker may have the job, or it has ended.
            Cancelled: the job was cancelled.
        """
        ...

    async def append(
        self, claim: Claim, events: Sequence[bytes], *, completed_steps: int | None = None
    ) -> int:
        """Adds events; returns the last one's sequence number."""
        ...

    async def advance(
        self,
        claim: Claim,
        slot: OutputSlot,
        output: bytes,
        events: Sequence[bytes] = (),
        *,
        completed_steps: int | None = None,
    ) -> int:
        """Stores a stage's output in place of an earlier one, with events; all of it or nothing.

        Returns:
            The last event's sequence number.
        """
        ...

    async def count_failure(self, claim: Claim, task: StageTask) -> None:
        """Notes that a task failed once more."""
        ...

    async def give_back(self, claim: Claim, after_seconds: float = 0.0) -> None:
        """Ends the claim and queues the job again, to be claimed after so many seconds."""
        ...

    async def finish(
        self,
        claim: Claim,
        state: JobState,
        outcome: bytes,
        events: Sequence[bytes],
        *,
        completed_steps: int | None = None,
    ) -> int:
        """Ends the job, with its last events.

        Args:
            claim: on it.
            state: SUCCEEDED or FAILED.
            outcome: the result or the failure, serialized.
            events: the last ones.
            completed_steps: as they stay.

        Returns:
            The last event's sequence number.
        """
        ...

    async def cancel(self, key: JobKey, event: bytes) -> JobRecord:
        """Ends a job that has not ended, with an event; changes nothing of one that has.

        Raises:
            JobNotFound, JobExpired: there is none.
        """
        ...

    async def get(self, key: JobKey) -> JobRecord:
        """A job's record.

        Raises:
            JobNotFound, JobExpired: there is none.
        """
        ...

    async def list_jobs(
        self,
        tenant: str,
        *,
        states: Collection[JobState] = (),
        page_size: int = 0,
        page_token: str = "",
    ) -> JobPage:
        """A tenant's jobs, newest first.

        Args:
            tenant: whose.
            states: which; empty for all.
            page_size: up to 1000; 0 for 50.
            page_token: of an earlier page; empty for the first.

        Raises:
            InvalidRequest: the page size or token is not allowed.
        """
        ...

    def watch(self, key: JobKey, after_sequence: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yields all events after a sequence number as they come; ends when the job has ended.

        Raises:
            JobNotFound, JobExpired: there is none.
            EventsExpired: some of these events are no longer kept.
            InvalidRequest: there is no such event yet.
        """
        ...

    async def wait_for_work(self, seconds: float) -> None:
        """Returns once a job may have been queued, or after so many seconds."""
        ...

    async def sweep(self) -> int:
        """Lets go what is not to be kept any longer; returns how many jobs and tombstones."""
        ...

    async def usage(self) -> LedgerUsage:
        """What is held."""
        ...

    async def close(self) -> None:
        """Ends what this process has of it; jobs stay where they are."""
        ...


def checked_page_size(asked: int) -> int:
    """How many jobs a page has.

    Raises:
        InvalidRequest: `page_size` is not allowed.
    """
    if not 0 <= asked <= MAX_PAGE_SIZE:
        raise InvalidRequest.of(
            "page_size", f"is {asked}; allowed are 0 (for {DEFAULT_PAGE_SIZE}) to {MAX_PAGE_SIZE}"
        )
    return asked or DEFAULT_PAGE_SIZE


def page_start(token: str) -> int | None:
    """The submission number before which a page begins; None for the newest job.

    Raises:
        InvalidRequest: `page_token` was not given by a ledger.
    """
    if not token:
        return None
    if not (token.isascii() and token.isdecimal() and len(token) < 16):
        raise InvalidRequest.of("page_token", f"is {token!r:.40}; allowed is an earlier answer's")
    return int(token)


def check_after_sequence(after_sequence: int, last_sequence: int) -> None:
    """Raises InvalidRequest if there is no such event yet."""
    if not 0 <= after_sequence <= last_sequence:
        raise InvalidRequest.of(
            "after_sequence", f"is {after_sequence}; allowed are 0 to {last_sequence}"
        )


def claims_of(key: JobKey) -> str:
    """What those listen for who have claimed a job: that nobody may write by an earlier claim."""
    return f"claims:{key}"
