"""One noun against one message: a rule for each field, found by names and types.

What names and types do not say is said where a table is made. A field of the noun or of the message
that no rule covers and that is not named there, with the reason, is an error when it is imported.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    TypeVar,
    get_origin,
    get_type_hints,
)

from google.protobuf.descriptor import FieldDescriptor, OneofDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from triptych.codec.hints import Hint, field_defaults, hint_of
from triptych.codec.values import Moment, Nested, Plain, Reading, Seconds, Value, Words
from triptych.domain.errors import FieldViolation, InvalidRequest
from triptych.domain.limits import Among

N = TypeVar("N")
M = TypeVar("M", bound=Message)

_TABLES: Final[dict[tuple[type, str], "Table[Any, Any]"]] = {}
_MOMENTS: Final[dict[str, Any]] = {
    Duration.DESCRIPTOR.full_name: Seconds(),
    Timestamp.DESCRIPTOR.full_name: Moment(),
}


@dataclass(frozen=True, slots=True)
class At:
    """Where a message has what a noun has under another name.

    Attributes:
        path: names of fields, with dots between them.
        present: the value where the message around it is there, but not the value itself.
        only_with: the noun's field without which it is not written,
        otherwise: but refused so, where that is said.
        root: whether paths of what is in it begin there.
        words: what stands for the names of an enum's numbers, where that is no enum.
    """

    path: str
    present: Any = None
    only_with: str | None = None
    otherwise: str = ""
    root: bool = False
    words: Mapping[Any, str] | None = None


@dataclass(frozen=True, slots=True)
class _Rule:
    """One field of a noun: where it is, and how it is carried."""

    name: str
    at: At
    parents: tuple[str, ...]
    leaf: Any
    hint: Hint
    value: Value | None
    members: Mapping[type, tuple[str, Value]]
    default: Callable[[], Any] | None

    def write(self, message: Any, noun: object, path: str) -> Iterator[FieldViolation]:
        value = getattr(noun, self.name)
        if value is None:
            return
        if self.at.only_with is not None and getattr(noun, self.at.only_with) is None:
            if self.at.otherwise:
                yield FieldViolation(self._path(path, self.leaf.name), self.at.otherwise)
            return
        for parent in self.parents:
            message = getattr(message, parent)
        yield from self._set(message, value, path)

    def _set(self, message: Any, value: Any, path: str) -> Iterator[FieldViolation]:
        if self.members:
            if type(value) not in self.members:
                allowed = ", ".join(kind.__name__ for kind in self.members)
                raise TypeError(
                    f"{self.name} is of type {type(value).__name__}; allowed are {allowed}"
                )
            name, member = self.members[type(value)]
            yield from member.put(message, name, value, self._path(path, name))
            return
        assert self.value is not None
        where = self._path(path, self.leaf.name)
        if not self.hint.repeated:
            yield from self.value.put(message, self.leaf.name, value, where)
            return
        for number, element in enumerate(value):
            nested = f"{where}[{number}]" if isinstance(self.value, Nested) else where
            yield from self.value.add(getattr(message, self.leaf.name), element, nested)

    def read(self, message: Any, path: str, reading: Reading) -> Any:
        around = True
        for parent in self.parents:
            around = around and message.HasField(parent)
            message = getattr(message, parent)
        if self.members:
            return self._chosen(message, path, reading)
        assert self.value is not None
        where = self._path(path, self.leaf.name)
        carried = getattr(message, self.leaf.name)
        if self.hint.repeated:
            return self._several(carried, where, reading)
        if self._given(message, carried):
            return self.value.get(carried, where, reading)
        if around and self.parents and self.at.present is not None:
            return self.at.present
        return self._left_out(carried, where, reading)

    def _left_out(self, carried: Any, where: str, reading: Reading) -> Any:
        assert self.value is not None
        if self.default is not None or self.hint.optional:
            return None if self.default is None else self.default()
        if isinstance(self.value, Plain) and reading.strict and self.leaf.has_presence:
            reading.refuse(where, "is missing")
        return self.value.get(carried, where, reading)

    def _several(self, carried: Any, where: str, reading: Reading) -> Any:
        assert self.value is not None
        if not carried and self.hint.optional:
            return None
        numbered = isinstance(self.value, Nested)
        return tuple(
            self.value.get(element, f"{where}[{number}]" if numbered else where, reading)
            for number, element in enumerate(carried)
        )

    def _chosen(self, message: Any, path: str, reading: Reading) -> Any:
        chosen = message.WhichOneof(self.leaf.name)
        for name, member in self.members.values():
            if name == chosen:
                return member.get(getattr(message, name), self._path(path, name), reading)
        return None if self.default is None else self.default()

    def _given(self, message: Any, carried: Any) -> bool:
        assert isinstance(self.leaf, FieldDescriptor)
        if self.leaf.has_presence:
            return bool(message.HasField(self.leaf.name))
        if carried:
            return True
        # Nothing tells a zero from nothing, but a noun that has no zero, or that may have nothing.
        lowest, _ = self.hint.ends
        return not ((lowest or 0) > 0 or self.hint.optional or isinstance(self.value, Words))

    def _path(self, path: str, name: str) -> str:
        return path + ".".join((*self.parents, name))


class Table(Generic[N, M]):
    """Writes a noun as a message, and reads it back.

    Args:
        noun: a dataclass, or a pydantic model.
        message: its class.
        at: the noun's fields that the message has under other names or elsewhere.
        inside: the message's field in which all of it is.
        apart: the noun's fields that the message does not carry, and why.
        untold: the message's fields that the noun does not have, by path, and why; "*" for all that
            are left.
        derived: the message's fields that are written from the noun's properties, and not read.
        build: makes the noun of its fields, by name; the class itself by default.
    """

    def __init__(
        self,
        noun: type[N],
        message: type[M],
        *,
        at: Mapping[str, str | At] | None = None,
        inside: str = "",
        apart: Mapping[str, str] | None = None,
        untold: Mapping[str, str] | None = None,
        derived: tuple[str, ...] = (),
        build: Callable[..., Any] | None = None,
    ) -> None:
        self.noun, self.message = noun, message
        self._build = noun if build is None else build
        self._derived = derived
        self.apart, self.untold = dict(apart or {}), dict(untold or {})
        self._inline: dict[str, Table[Any, Any]] = {}
        self._rules: list[_Rule] = []
        places = {name: At(p) if isinstance(p, str) else p for name, p in (at or {}).items()}
        self._read_fields(places, inside)
        if "*" not in self.untold:
            self._check_covered(message.DESCRIPTOR)
        _TABLES[noun, message.DESCRIPTOR.full_name] = self

    def write(self, noun: N) -> M:
        """A message.

        Raises:
            InvalidRequest: with every value that the message cannot carry.
            TypeError: a value of the wrong type.
        """
        message = self.message()
        if violations := list(self.fill(message, noun)):
            raise InvalidRequest(violations)
        return message

    def fill(self, message: Message, noun: N, path: str = "") -> Iterator[FieldViolation]:
        """Sets a message's fields; yields what it cannot carry."""
        for table_name, table in self._inline.items():
            yield from table.fill(message, getattr(noun, table_name), path)
        for rule in self._rules:
            yield from rule.write(message, noun, path)
        for name in self._derived:
            setattr(message, name, getattr(noun, name))

    def read(self, message: M, path: str = "", *, strict: bool = True) -> N:
        """The noun.

        Args:
            message: what came.
            path: of the message in the request, for refusals.
            strict: refuse what is missing or unknown. A client does not: what a newer cluster
                adds must not break it.

        Raises:
            InvalidRequest: with every field that is refused.
        """
        reading = Reading(strict)
        noun = self.take(message, path, reading)
        if reading.violations:
            raise InvalidRequest(reading.violations)
        return noun  # type: ignore[no-any-return]

    def take(self, message: Message, path: str, reading: Reading) -> Any:
        """The noun, or None if a field of it is refused."""
        refused = len(reading.violations)
        values = {name: each.take(message, path, reading) for name, each in self._inline.items()}
        values |= {rule.name: rule.read(message, path, reading) for rule in self._rules}
        if len(reading.violations) > refused:
            return None
        return self._build(**values)

    @property
    def paths(self) -> Iterator[tuple[str, ...]]:
        """Of all message fields that it covers."""
        for rule in self._rules:
            names = {name for name, _ in rule.members.values()} or {rule.leaf.name}
            yield from ((*rule.parents, name) for name in names)
        for table in self._inline.values():
            yield from table.paths
        yield from ((name,) for name in self._derived)

    def _read_fields(self, places: Mapping[str, At], inside: str) -> None:
        hints = get_type_hints(self.noun, include_extras=True)
        # A field that has one value names the noun among others, which its message does already.
        tags = {name for name, hint in hints.items() if get_origin(hint) is Literal}
        known = {n: d for n, d in field_defaults(self.noun).items() if n not in tags}
        for name in known.keys() - self.apart.keys():
            inline = _TABLES.get((hints[name], self.message.DESCRIPTOR.full_name))
            if inline is not None and name not in places:
                self._inline[name] = inline
        self._rules = [
            self._rule(name, hints[name], default, places.get(name), inside)
            for name, default in known.items()
            if name not in self.apart and name not in self._inline
        ]
        if stray := (places.keys() | self.apart.keys()) - known.keys():
            raise TypeError(f"{self.noun.__name__} has no {', '.join(sorted(stray))}")

    def _rule(
        self,
        name: str,
        annotation: Any,
        default: Callable[[], Any] | None,
        at: At | None,
        inside: str,
    ) -> _Rule:
        descriptor = _descend(self.message.DESCRIPTOR, inside)
        found = at or At(self._found(name, descriptor))
        path = f"{inside}.{found.path}" if inside else found.path
        *parents, last = path.split(".")
        holder = _descend(self.message.DESCRIPTOR, ".".join(parents))
        leaf = holder.oneofs_by_name.get(last) or holder.fields_by_name.get(last)
        if leaf is None:
            raise TypeError(f"{holder.full_name} has no {last}, where {name} would be")
        hint = hint_of(annotation)
        members, value = {}, None
        if isinstance(leaf, OneofDescriptor):
            members = _members(hint.kinds, leaf)
        else:
            value = self._value(hint, leaf, found)
        return _Rule(name, found, tuple(parents), leaf, hint, value, members, default)

    def _found(self, name: str, descriptor: Any) -> str:
        stem = name.removesuffix("_seconds")
        for candidate in (name, stem, f"{stem}_duration", name.replace("seconds", "duration")):
            if candidate in descriptor.fields_by_name or candidate in descriptor.oneofs_by_name:
                return candidate
        raise TypeError(f"{descriptor.full_name} has nothing for {self.noun.__name__}.{name}")

    def _value(self, hint: Hint, leaf: Any, at: At) -> Value:
        if leaf.message_type is not None:
            full_name = leaf.message_type.full_name
            if full_name in _MOMENTS:
                return Nested(_MOMENTS[full_name])
            return Nested(_TABLES[hint.kinds[0], full_name], root=at.root)
        if leaf.enum_type is not None:
            if at.words is not None:
                numbers = leaf.enum_type.values_by_name
                words = {word: numbers[number].number for word, number in at.words.items()}
                return Words(leaf.enum_type, words, None)
            kinds = [k for k in (*hint.marks, *hint.kinds) if isinstance(k, type)]
            among = next((mark.words for mark in hint.marks if isinstance(mark, Among)), None)
            return Words.of(leaf.enum_type, kinds[0], among)
        return Plain(leaf.cpp_type, *hint.ends)

    def _check_covered(self, descriptor: Any) -> None:
        told = set(self.paths) | {tuple(path.split(".")) for path in self.untold}
        if left := sorted(_uncovered(descriptor, told)):
            raise TypeError(f"{descriptor.full_name}: nothing is said of {', '.join(left)}")


def _uncovered(descriptor: Any, told: set[tuple[str, ...]]) -> Iterator[str]:
    for name, field in descriptor.fields_by_name.items():
        below = {path[1:] for path in told if path[0] == name}
        if not below:
            yield name
        elif () not in below:
            yield from (f"{name}.{rest}" for rest in _uncovered(field.message_type, below))


def _descend(descriptor: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        descriptor = descriptor.fields_by_name[name].message_type
    return descriptor


def _members(kinds: tuple[Any, ...], oneof: Any) -> dict[type, tuple[str, Value]]:
    members: dict[type, tuple[str, Value]] = {}
    for field in oneof.fields:
        full_name = field.message_type.full_name
        kind = next((kind for kind in kinds if (kind, full_name) in _TABLES), None)
        if kind is None:
            raise TypeError(f"{oneof.full_name}: nothing is said of {field.name}")
        members[kind] = (field.name, Nested(_TABLES[kind, full_name]))
    return members
