"""What a Redis server's answers mean."""

from collections.abc import Sequence
from typing import Any

from services.jobs.ledger import Claim, Meaning, Submitted
from services.jobs.record import JobKey, JobRecord, Submission
from services.jobs.redis_fields import EXPIRED, Fields, key_of, record_of
from triptych.domain.errors import (
    Cancelled,
    ClaimLost,
    JobExpired,
    JobNotFound,
    RequestIdReused,
)


def written(claim: Claim, answer: Sequence[Any]) -> int:
    """The last event's sequence number, as a script answers a claim's write.

    Raises:
        ClaimLost, Cancelled: it was refused.
    """
    if answer[0] == b"cancelled":
        raise Cancelled(f"the job {claim.key.job_id} was cancelled")
    if answer[0] == b"lost":
        raise ClaimLost(f"{claim.worker} no longer has the job {claim.key.job_id}")
    return int(answer[1])


def found(key: JobKey, fields: Fields) -> JobRecord:
    """The record in a job's hash.

    Raises:
        JobNotFound, JobExpired: there is none.
    """
    if not fields:
        raise JobNotFound(key.job_id)
    if fields[b"state"] == EXPIRED:
        raise JobExpired(key.job_id)
    return record_of(fields)


def meant(fields: Fields, submission: Submission) -> Submitted:
    """What a submission means of which the job was known.

    Args:
        fields: the job's hash.
        submission: what came.

    Raises:
        RequestIdReused: it is another request's.
        JobExpired: the job is no longer kept.
    """
    key = key_of(fields)
    if fields[b"fingerprint"].decode() != submission.fingerprint:
        raise RequestIdReused(submission.client_request_id, key.job_id)
    record = found(key, fields)
    if key == submission.key:
        return Submitted(record, Meaning.NEW)
    return Submitted(record, Meaning.REPLAYED if record.state.has_ended else Meaning.ATTACHED)
