"""How one value of a noun's field is carried by a message's field."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from triptych.domain.errors import FieldViolation
from triptych.domain.open_enum import OpenEnum

_ENDS: Final = {
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
}


@dataclass(slots=True)
class Reading:
    """One message being read.

    Attributes:
        strict: whether what is missing or unknown is refused, rather than taken as it can be.
        violations: what was refused so far.
    """

    strict: bool
    violations: list[FieldViolation] = field(default_factory=list)

    def refuse(self, path: str, description: str) -> None:
        """Notes what is wrong with a field."""
        self.violations.append(FieldViolation(path, description))


class Value(Protocol):
    """Between a noun's value and a message's."""

    def put(self, holder: Any, name: str, value: Any, path: str) -> Iterator[FieldViolation]:
        """Sets a field; yields why it could not."""
        ...

    def add(self, values: Any, value: Any, path: str) -> Iterator[FieldViolation]:
        """Appends to a repeated field; yields why it could not."""
        ...

    def get(self, carried: Any, path: str, reading: Reading) -> Any:
        """The noun's value."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """The same on both sides.

    Attributes:
        lowest: that the noun's field may have; None for what the message's field may.
        highest: likewise.
    """

    kind: int
    lowest: int | None = None
    highest: int | None = None

    def put(self, holder: Any, name: str, value: Any, path: str) -> Iterator[FieldViolation]:
        """Sets a field; yields why it could not."""
        try:
            setattr(holder, name, value)
        except ValueError as error:
            yield FieldViolation(path, self._unsendable(value, error))

    def add(self, values: Any, value: Any, path: str) -> Iterator[FieldViolation]:
        """Appends to a repeated field; yields why it could not."""
        try:
            values.append(value)
        except ValueError as error:
            yield FieldViolation(path, self._unsendable(value, error))

    def get(self, carried: Any, path: str, reading: Reading) -> Any:
        """The noun's value."""
        return carried

    def _unsendable(self, value: object, error: ValueError) -> str:
        if self.kind not in _ENDS:
            return f"is {value!r}; allowed is text in Unicode ({error})"
        lowest, highest = _ENDS[self.kind]
        lowest = lowest if self.lowest is None else self.lowest
        highest = highest if self.highest is None else self.highest
        return f"is {value}; allowed are {lowest} to {highest}"


class Words:
    """An enum's word, against its number.

    Args:
        enum: of the message's field.
        words: of the numbers other than 0, which stands for a value that is left out.
        kind: what unknown numbers become members of, where they are not refused.
        among: the words that are written; all of them by default.
    """

    def __init__(
        self,
        enum: EnumDescriptor,
        words: Mapping[Any, int],
        kind: type[OpenEnum] | None,
        among: Collection[Any] | None = None,
    ) -> None:
        self._numbers = {w: n for w, n in words.items() if among is None or w in among}
        self._words = {number: word for word, number in words.items()}
        self._kind = kind
        self._names = {value.number: value.name for value in enum.values}
        self._prefix = prefix_of(enum)
        if self._words.keys() != self._names.keys() - {0}:
            raise TypeError(f"{enum.full_name}: words and numbers differ")

    @classmethod
    def of(
        cls, enum: EnumDescriptor, kind: type[StrEnum], among: Collection[str] | None = None
    ) -> "Words":
        """The words of an enum's class, which the message's enum has in capitals."""
        prefix = prefix_of(enum)
        values = enum.values_by_name
        missing = [word for word in kind if f"{prefix}{word.name}" not in values]
        if missing:
            raise TypeError(f"{enum.full_name} has no {', '.join(missing)}")
        words = {word: values[f"{prefix}{word.name}"].number for word in kind}
        return cls(enum, words, kind if issubclass(kind, OpenEnum) else None, among)

    def put(self, holder: Any, name: str, value: Any, path: str) -> Iterator[FieldViolation]:
        """Sets a field; yields why it could not."""
        if value in self._numbers:
            setattr(holder, name, self._numbers[value])
        else:
            yield self._unknown(path, f"is {value}")

    def add(self, values: Any, value: Any, path: str) -> Iterator[FieldViolation]:
        """Appends to a repeated field; yields why it could not."""
        if value in self._numbers:
            values.append(self._numbers[value])
        else:
            yield self._unknown(path, f"is {value}")

    def get(self, carried: int, path: str, reading: Reading) -> Any:
        """The word; for a number that this release does not know, refused or without a name."""
        if carried in self._words:
            return self._words[carried]
        if reading.strict:
            unknown = self._unknown(path, "is unspecified or unknown")
            reading.refuse(unknown.field, unknown.description)
            return None
        if self._kind is None:
            return next(iter(self._numbers))
        known = self._names.get(carried, f"{self._prefix}UNKNOWN_{carried}")
        return self._kind.unknown(known.removeprefix(self._prefix).lower())

    def _unknown(self, path: str, said: str) -> FieldViolation:
        return FieldViolation(path, f"{said}; allowed are {', '.join(map(str, self._numbers))}")


class Nested:
    """A noun of its own, in a message of its own: whatever has `fill` and `take`."""

    def __init__(self, table: Any, *, root: bool = False) -> None:
        self._table = table
        self._root = root

    def put(self, holder: Any, name: str, value: Any, path: str) -> Iterator[FieldViolation]:
        """Sets a field; yields why it could not."""
        message = getattr(holder, name)
        # Even where all of it is left out: that it is there says something.
        message.SetInParent()
        yield from self._table.fill(message, value, "" if self._root else f"{path}.")

    def add(self, values: Any, value: Any, path: str) -> Iterator[FieldViolation]:
        """Appends to a repeated field; yields why it could not."""
        yield from self._table.fill(values.add(), value, f"{path}.")

    def get(self, carried: Any, path: str, reading: Reading) -> Any:
        """The noun."""
        return self._table.take(carried, "" if self._root else f"{path}.", reading)


class Seconds:
    """A google.protobuf.Duration, rounded to nanoseconds."""

    def fill(self, message: Any, value: float, path: str) -> Iterator[FieldViolation]:
        """Writes seconds."""
        message.FromNanoseconds(round(value * 1e9))
        yield from ()

    def take(self, message: Any, path: str, reading: Reading) -> float:
        """Not by way of timedelta, which drops nanoseconds."""
        return float(message.seconds + message.nanos / 1e9)


class Moment:
    """A google.protobuf.Timestamp, as seconds since the epoch, rounded to microseconds."""

    def fill(self, message: Any, value: float, path: str) -> Iterator[FieldViolation]:
        """Writes a moment."""
        message.FromMicroseconds(round(value * 1e6))
        yield from ()

    def take(self, message: Any, path: str, reading: Reading) -> float:
        """By hand, since ToMicroseconds refuses what is out of its own range by its own error."""
        return float(message.seconds + message.nanos / 1e9)


def prefix_of(enum: EnumDescriptor) -> str:
    """What the names of an enum's values begin with, for example "STAGE_"."""
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")
