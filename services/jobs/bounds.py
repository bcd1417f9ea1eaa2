"""How long a job may go on, by the clock and by what comes of it."""

from typing import Final

from services.jobs.record import JobRecord
from triptych.domain.errors import DeadlineExceeded, TriptychError

MAX_FRUITLESS_CLAIMS: Final = 5


def end_time(record: JobRecord) -> float | None:
    """When a job that has not ended is to be stopped, in seconds since the epoch; None for never.

    Args:
        record: of the job; what it may run counts from its first claim.
    """
    scheduling = record.scheduling
    ends = [] if scheduling.deadline is None else [scheduling.deadline]
    if scheduling.max_run_seconds is not None and record.start_time is not None:
        ends.append(record.start_time + scheduling.max_run_seconds)
    return min(ends, default=None)


def why_not_run(record: JobRecord, now: float) -> TriptychError | None:
    """Why a job that was just claimed is to be failed rather than worked on; None if it is not.

    Args:
        record: as it was when it was claimed.
        now: seconds since the epoch.
    """
    end = end_time(record)
    if end is not None and now >= end:
        return DeadlineExceeded("the deadline passed before the job was done")
    if record.fruitless_claims > MAX_FRUITLESS_CLAIMS:
        return TriptychError(
            f"the job was begun {record.fruitless_claims - 1} times, and nothing came of it: each"
            " time the process that worked on it ended or lost touch"
        )
    return None
