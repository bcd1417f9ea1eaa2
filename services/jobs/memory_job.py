"""A job with its events, in memory."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from services.jobs.record import JobEvent, JobKey, JobRecord
from triptych.domain.job import Priority

_CLASSES: Final = (Priority.INTERACTIVE, Priority.STANDARD, Priority.BATCH)

Place = tuple[int, float, int, JobKey]
"""Where a job stands among others that wait, the smallest first."""


@dataclass(slots=True)
class MemoryJob:
    """What a ledger in memory has of a job.

    Attributes:
        number: counts submissions.
        events: those that are still kept.
        event_bytes: what they take.
    """

    record: JobRecord
    number: int
    events: deque[JobEvent] = field(default_factory=deque)
    event_bytes: int = 0

    @property
    def place(self) -> Place:
        """See Place."""
        scheduling = self.record.scheduling
        deadline = float("inf") if scheduling.deadline is None else scheduling.deadline
        return (_CLASSES.index(scheduling.priority), deadline, self.number, self.record.key)

    def change(self, **values: Any) -> None:  # noqa: ANN401 - of a record
        """Sets fields of the record."""
        self.record = replace(self.record, **values)

    def note_steps(self, completed_steps: int | None) -> None:
        """Notes how many steps are done, if that is told; more of them are progress."""
        if completed_steps is None:
            return
        if completed_steps > self.record.completed_steps:
            self.change(fruitless_claims=0)
        self.change(completed_steps=completed_steps)

    def publish(self, events: Iterable[bytes], now: float, max_event_bytes: int) -> int:
        """Adds events, and lets the first ones go that are too much; returns by how much it grew.

        Args:
            events: as their writer gave them.
            now: seconds since the epoch.
            max_event_bytes: what all of them may take; the last one stays whatever it takes.
        """
        before, last = self.event_bytes, self.record.last_sequence
        for data in events:
            last += 1
            event = JobEvent(last, now, data)
            self.events.append(event)
            self.event_bytes += event.size_bytes
        while self.event_bytes > max_event_bytes and len(self.events) > 1:
            self.event_bytes -= self.events.popleft().size_bytes
        first = self.events[0].sequence if self.events else 1
        self.change(first_sequence=first, last_sequence=last)
        return self.event_bytes - before
