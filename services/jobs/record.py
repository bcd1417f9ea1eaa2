"""What is known about a job."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from triptych.domain.errors import InvalidRequest
from triptych.domain.job import JobState, Scheduling
from triptych.domain.stage_timing import StageTask

MAX_REQUEST_ID_CHARACTERS: Final = 128
_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_JOB_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

EVENT_OVERHEAD_BYTES: Final = 64
"""What an event takes in a ledger beside its bytes, about."""
JOB_OVERHEAD_BYTES: Final = 8192
"""What a job takes beside what is written of it, about; of it 4096 are the first of its events."""


@dataclass(frozen=True, slots=True)
class JobKey:
    """Names a job; nobody reaches it without its tenant's name.

    Attributes:
        tenant: 1 to 64 letters, digits, hyphens and underscores.
        job_id: 32 hexadecimal digits, never used before.
    """

    tenant: str
    job_id: str

    def __str__(self) -> str:
        return f"{self.tenant}:{self.job_id}"

    @property
    def is_well_formed(self) -> bool:
        """Whether there can be a job of this name."""
        return bool(_TENANT.fullmatch(self.tenant) and _JOB_ID.fullmatch(self.job_id))


@dataclass(frozen=True, slots=True)
class OutputSlot:
    """Which output of a job: a task of a stage, for one of the job's results.

    Attributes:
        index: of the result, or of the input image.
    """

    task: StageTask
    index: int = 0


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job.

    Attributes:
        sequence: from 1, without gaps.
        time: seconds since the epoch.
        data: as its writer gave it; a ledger knows events' order, not their content.
    """

    sequence: int
    time: float
    data: bytes

    @property
    def size_bytes(self) -> int:
        """What it takes in a ledger, about."""
        return EVENT_OVERHEAD_BYTES + len(self.data)


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as it is handed in.

    Attributes:
        client_request_id: chosen by the client, up to 128 characters; empty for a job that no
            later submission can mean.
        fingerprint: of what was asked, which a repetition shares.
        parameters: the effective parameters, serialized.
        events: the first ones of the job, in their order.
        max_open_jobs: how many jobs of the tenant's may be there that have not ended, this one
            included; None for any number.

    Raises:
        InvalidRequest: client_request_id is too long.
        ValueError: the key is malformed.
    """

    key: JobKey
    client_request_id: str
    fingerprint: str
    parameters: bytes
    scheduling: Scheduling = field(default_factory=Scheduling)
    events: tuple[bytes, ...] = ()
    max_open_jobs: int | None = None

    def __post_init__(self) -> None:
        if not self.key.is_well_formed:
            raise ValueError(f"{self.key!r} names no job")
        if len(self.client_request_id) > MAX_REQUEST_ID_CHARACTERS:
            raise InvalidRequest.of(
                "client_request_id",
                f"has {len(self.client_request_id)} characters;"
                f" allowed are at most {MAX_REQUEST_ID_CHARACTERS}",
            )

    @property
    def size_bytes(self) -> int:
        """What it takes in a ledger, about, without its events."""
        return JOB_OVERHEAD_BYTES + len(self.parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What a ledger holds of a job, but for its events.

    Attributes:
        fingerprint: of what was asked.
        parameters: the effective parameters, serialized; drawn seeds and defaults included.
        attempt: how often it was claimed; the last claim's fencing token.
        fruitless_claims: how often in a row it was claimed, the last one included, by workers that
            gave neither an output nor a further step, nor gave it back.
        worker: who claimed it last, while it runs; empty otherwise.
        completed_steps: of the denoising loops of all its results together, as last reported.
        failures: by task, how often it failed so far.
        outputs: what stages gave, as the worker wrote it.
        outcome: how it ended, as the worker wrote it; empty before that, and of a cancelled job.
        first_sequence: the first event that is still kept.
        last_sequence: the last event's number; 0 without any.
        create_time, start_time, end_time: seconds since the epoch; the start is the first claim's.
        size_bytes: what it takes in the ledger, about.
    """

    key: JobKey
    client_request_id: str
    fingerprint: str
    parameters: bytes
    scheduling: Scheduling
    state: JobState
    attempt: int = 0
    fruitless_claims: int = 0
    worker: str = ""
    completed_steps: int = 0
    failures: Mapping[StageTask, int] = field(default_factory=dict)
    outputs: Mapping[OutputSlot, bytes] = field(default_factory=dict)
    outcome: bytes = b""
    first_sequence: int = 1
    last_sequence: int = 0
    create_time: float
    start_time: float | None = None
    end_time: float | None = None
    size_bytes: int
