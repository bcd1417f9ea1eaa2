"""What is written to a job at once."""

from dataclasses import dataclass, field

from services.jobs.ledger import Claim, JobLedger
from services.jobs.record import EVENT_OVERHEAD_BYTES, OutputSlot
from triptych.domain.job import JobState
from triptych.domain.stage_timing import StageTask


@dataclass(frozen=True, slots=True)
class Advanced:
    """A stage gave an output."""

    slot: OutputSlot
    output: bytes


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """A task failed once more."""

    task: StageTask


@dataclass(frozen=True, slots=True)
class Ended:
    """The job ended."""

    state: JobState
    outcome: bytes


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The job goes back to the queue."""

    after_seconds: float


@dataclass(slots=True)
class Entry:
    """Events, and what is to be written with them.

    Attributes:
        events: in their order; none with TaskFailed and GivenBack, which a ledger writes alone.
        completed_steps: of all results together; None if nothing is said of them.
        change: of the job; None for events alone.
    """

    events: list[bytes] = field(default_factory=list)
    completed_steps: int | None = None
    change: Advanced | TaskFailed | Ended | GivenBack | None = None

    @property
    def size_bytes(self) -> int:
        """What it takes, about."""
        size_bytes = sum(EVENT_OVERHEAD_BYTES + len(event) for event in self.events)
        match self.change:
            case Advanced(output=data) | Ended(outcome=data):
                return size_bytes + len(data)
        return size_bytes

    def take(self, following: "Entry") -> bool:
        """Takes in the entry after it, if both can be one; returns whether it did."""
        if self.change is not None or isinstance(following.change, TaskFailed | GivenBack):
            return False
        self.events += following.events
        if following.completed_steps is not None:
            self.completed_steps = following.completed_steps
        self.change = following.change
        return True

    async def write(self, ledger: JobLedger, claim: Claim) -> None:
        """Writes it by one call of the ledger; raises what that raises."""
        events, steps = self.events, self.completed_steps
        match self.change:
            case None:
                await ledger.append(claim, events, completed_steps=steps)
            case Advanced(slot, output):
                await ledger.advance(claim, slot, output, events, completed_steps=steps)
            case TaskFailed(task):
                await ledger.count_failure(claim, task)
            case Ended(state, outcome):
                await ledger.finish(claim, state, outcome, events, completed_steps=steps)
            case GivenBack(after_seconds):
                await ledger.give_back(claim, after_seconds)
