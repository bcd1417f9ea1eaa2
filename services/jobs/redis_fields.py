"""A job's record as a hash's fields."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from services.jobs.record import JobKey, JobRecord, OutputSlot
from triptych.domain.job import JobState, Priority, Scheduling
from triptych.domain.stage_timing import StageTask

EXPIRED: Final = b"expired"
"""The state of a tombstone."""
_OUTPUT: Final = "output:"
_FAILURES: Final = "failures:"
_LATEST_MILLISECONDS: Final = 10**16 - 1

Fields = Mapping[bytes, bytes]


def fields_of(flat: Sequence[bytes]) -> Fields:
    """A hash as a script returns it: names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def milliseconds(seconds: float) -> int:
    """Whole ones, the nearest."""
    return round(seconds * 1000)


def deadline_digits(deadline: float | None) -> str:
    """16 digits that sort as deadlines do, none as the last."""
    if deadline is None:
        return str(_LATEST_MILLISECONDS)
    return f"{milliseconds(deadline):016d}"


def optional_milliseconds(seconds: float | None) -> str:
    """Whole ones; empty for none."""
    return "" if seconds is None else str(milliseconds(seconds))


def output_field(slot: OutputSlot) -> str:
    """Where an output is."""
    return f"{_OUTPUT}{slot.task}:{slot.index}"


def failures_field(task: StageTask) -> str:
    """Where a task's failures are counted."""
    return f"{_FAILURES}{task}"


def record_of(fields: Fields) -> JobRecord:
    """The record in a hash that is no tombstone."""
    return JobRecord(
        key=key_of(fields),
        client_request_id=fields[b"request_id"].decode(),
        fingerprint=fields[b"fingerprint"].decode(),
        parameters=fields[b"parameters"],
        scheduling=Scheduling(
            Priority(fields[b"priority"].decode()),
            _deadline(fields),
            _seconds(fields, b"max_queue"),
            _seconds(fields, b"max_run"),
        ),
        state=JobState(fields[b"state"].decode()),
        attempt=_number(fields, b"attempt"),
        fruitless_claims=_number(fields, b"fruitless"),
        worker=fields[b"worker"].decode(),
        completed_steps=_number(fields, b"steps"),
        failures={StageTask(rest): int(value) for rest, value in _named(fields, _FAILURES)},
        outputs={_slot(rest): value for rest, value in _named(fields, _OUTPUT)},
        outcome=fields.get(b"outcome", b""),
        first_sequence=_number(fields, b"first"),
        last_sequence=_number(fields, b"last"),
        create_time=_number(fields, b"created") / 1000,
        start_time=_seconds(fields, b"started"),
        end_time=_seconds(fields, b"ended"),
        size_bytes=_number(fields, b"size"),
    )


def key_of(fields: Fields) -> JobKey:
    """Whose record it is, or whose tombstone."""
    return JobKey(fields[b"tenant"].decode(), fields[b"id"].decode())


def _number(fields: Fields, name: bytes) -> int:
    return int(fields.get(name, 0))


def _seconds(fields: Fields, name: bytes) -> float | None:
    return _number(fields, name) / 1000 if fields.get(name) else None


def _deadline(fields: Fields) -> float | None:
    deadline = _number(fields, b"deadline")
    return None if deadline == _LATEST_MILLISECONDS else deadline / 1000


def _named(fields: Fields, prefix: str) -> Iterator[tuple[str, bytes]]:
    for name, value in fields.items():
        if (text := name.decode()).startswith(prefix):
            yield text.removeprefix(prefix), value


def _slot(text: str) -> OutputSlot:
    task, _, index = text.rpartition(":")
    return OutputSlot(StageTask(task), int(index))
