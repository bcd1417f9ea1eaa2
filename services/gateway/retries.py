"""What is tried again of a job, until it is known that it fails."""

import asyncio
import time
from dataclasses import replace

from services.jobs.decide import Fail, Retry, decide
from services.jobs.journal import Journal
from services.jobs.record import JobRecord
from services.observability.logs import get_logger
from triptych.domain.errors import TensorNotFound, TriptychError, Unavailable
from triptych.domain.failure import Failure
from triptych.domain.stage_timing import StageTask

_log = get_logger(__name__)


class JobFailed(Exception):
    """The job has failed, and nothing of it is tried again."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    @classmethod
    def of(cls, error: TriptychError, *, retryable: bool = False) -> "JobFailed":
        """By an error that is not tried against."""
        return cls(
            Failure(
                error.status,
                error.reason,
                str(error),
                tuple(error.violations),
                error.retry_after_seconds,
                retryable=retryable,
            )
        )


class Remake(Exception):
    """What a task reads is gone: an earlier task has to make it again."""

    def __init__(self, from_task: StageTask) -> None:
        super().__init__(f"again from {from_task}")
        self.from_task = from_task


class Retries:
    """Counts a job's failures, and waits between tries.

    Args:
        record: of the job, as it was claimed.
        journal: where failures are counted, for the next who claims it.
    """

    def __init__(self, record: JobRecord, journal: Journal) -> None:
        self._record = record
        self._journal = journal

    async def after(self, error: TriptychError, task: StageTask, completed_steps: int) -> Retry:
        """Returns when a task may be tried again, and says how.

        Args:
            error: what it failed with.
            task: what failed.
            completed_steps: of all of the job's results together, so far.

        Raises:
            JobFailed: it may not.
            Remake: not before an earlier task has been done again.
            ClaimLost, Cancelled: the job is no longer this process's.
        """
        record = replace(self._record, completed_steps=completed_steps)
        decided = decide(error, record, task, time.time())
        if isinstance(decided, Fail):
            raise JobFailed.of(_told(error), retryable=decided.retryable) from error
        _log.warning(
            "tried again",
            task=task,
            from_task=decided.from_task,
            after_seconds=round(decided.after_seconds, 3),
            reason=error.reason,
            cause=str(error),
        )
        if decided.counts:
            failures = record.failures.get(task, 0) + 1
            self._record = replace(record, failures={**record.failures, task: failures})
            await self._journal.count_failure(task)
        await asyncio.sleep(decided.after_seconds)
        if not decided.elsewhere:
            raise Remake(decided.from_task) from error
        return decided


def _told(error: TriptychError) -> TriptychError:
    # Told by its reason: from another process it comes as a RemoteFailure.
    if error.reason == TensorNotFound.reason:
        return Unavailable(
            "a stage was restarted and took this job's tensors with it, again and again; repeat"
            " the request"
        )
    return error
