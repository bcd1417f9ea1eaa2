"""What is said beside a noun's field of the values that it may have."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_type_hints

from annotated_types import Interval

from triptych.domain.errors import FieldViolation

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Within:
    """From one of the model's capabilities to another, both inclusive, by their names."""

    lowest: str
    highest: str
    multiple_of: str | None = None


@dataclass(frozen=True, slots=True)
class AtMost:
    """As many characters as one of the model's capabilities says, by its name."""

    highest: str
    unit: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of those that one of the model's capabilities lists, by its name."""

    choices: str


@dataclass(frozen=True, slots=True)
class Among:
    """One of these words, of all that there are."""

    words: tuple[str, ...]


def marks(noun: type, kind: type[M]) -> dict[str, M]:
    """What of one kind stands beside a noun's fields."""
    return {name: mark for name, mark in _all_marks(noun) if isinstance(mark, kind)}


def intervals(noun: type) -> dict[str, tuple[Any, Any]]:
    """The lowest and the highest value of each field that has such bounds; None for no bound."""
    return {name: (mark.ge, mark.le) for name, mark in marks(noun, Interval).items()}


def limit_violations(
    noun: Any, capabilities: object, beside: tuple[str, ...] = ()
) -> Iterator[FieldViolation]:
    """What is outside the bounds that stand beside its fields.

    Args:
        noun: of which None is what was left out.
        capabilities: of the model.
        beside: fields that are checked elsewhere.
    """
    kind: Any = type(noun)
    for name, mark in _all_marks(kind):
        value = getattr(noun, name)
        if value is None or name in beside:
            continue
        if (wrong := out_of_bounds(value, mark, capabilities)) is not None:
            yield FieldViolation(name, wrong)


def out_of_bounds(value: Any, mark: object, capabilities: object) -> str | None:
    """What is wrong with a value beside which this stands; None where nothing is."""
    match mark:
        case Interval(ge=lowest, le=highest):
            return _outside(value, lowest, highest)
        case Within():
            lowest, highest = (getattr(capabilities, end) for end in (mark.lowest, mark.highest))
            step = None if mark.multiple_of is None else getattr(capabilities, mark.multiple_of)
            return _outside(value, lowest, highest, step)
        case AtMost(name, unit):
            most = getattr(capabilities, name)
            told = f"has {len(value)} {unit}; allowed are at most {most}"
            return told if len(value) > most else None
        case OneOf(name):
            choices = getattr(capabilities, name)
            return None if value in choices else f"is {value}; allowed are {', '.join(choices)}"
    return None


def _outside(value: Any, lowest: Any, highest: Any, step: int | None = None) -> str | None:
    enough = lowest is None or value >= lowest
    # What is not a number fails every comparison.
    if enough and (highest is None or value <= highest) and not (step and value % step):
        return None
    multiples = f"multiples of {step} from " if step else ""
    ends = (f"{end:g}" if isinstance(end, float) else str(end) for end in (lowest, highest))
    return f"is {value}; allowed are {multiples}{' to '.join(ends)}"


@cache
def _all_marks(noun: Any) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(noun, include_extras=True)
    return tuple(
        (name, mark) for name, hint in hints.items() for mark in getattr(hint, "__metadata__", ())
    )
