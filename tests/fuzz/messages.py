"""Protobuf messages that nobody would send: as bytes, from the descriptors alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

MAX_CHANGES = 5
_MAX_REPEATED = 3
_MAX_DEPTH = 3

Draw = Callable[[st.SearchStrategy[Any]], Any]
Suggested = Mapping[str, st.SearchStrategy[Any]]
"""By a field's name: values that reach further than those that its type allows."""


def _around(*numbers: int, low: int, high: int) -> st.SearchStrategy[int]:
    edges = {low, high, 0, 1, 2, *numbers}
    return st.sampled_from(sorted(each for each in edges if low <= each <= high))


_TEXTS = st.sampled_from(
    ["", " ", "a", "\x00", "../..", "ä" * 70, "😀" * 2000, "a" * 5000, "7" * 32, "f" * 32, "NaN"]
) | st.text(max_size=20)
_BYTES = st.sampled_from([b"", b"\x00", b"\xff" * 40]) | st.binary(max_size=60)
_FLOATS = (
    st.sampled_from([0.0, -0.0, 1.0, 0.1, -1.0, 1e308, float("nan"), float("inf")]) | st.floats()
)
_TYPES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: _around(7, low=-(2**31), high=2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: _around(16, 63, 64, 100, 4097, low=0, high=2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: _around(17, 2**32, low=-(2**63), high=2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: _around(4096, 2**32, 2**63, low=0, high=2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: _FLOATS,
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_ENUM: _around(3, 7, 99, low=-1, high=2**31 - 1),
}


def altered(base: Message, suggested: Suggested | None = None) -> st.SearchStrategy[bytes]:
    """Serialised messages of one type: a sound one with changes, made up ones, and damaged bytes.

    Args:
        base: a sound one.
        suggested: see Suggested.
    """
    known = suggested or {}
    # One change or two leave the rest to be looked at; more are mostly refused for the first.
    few, many = _changed(base, known, 2), _changed(base, known, MAX_CHANGES)
    return st.one_of(few, few, few, few, few, many, _made_up(base, known), damaged(base))


def damaged(base: Message) -> st.SearchStrategy[bytes]:
    """A sound message's bytes, some of them changed, cut off, or repeated; or any bytes at all."""
    sound = base.SerializeToString(deterministic=True)
    return _damaged_bytes(sound) | st.binary(max_size=80)


@st.composite
def _damaged_bytes(draw: Draw, sound: bytes) -> bytes:
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, MAX_CHANGES))):
        if not data:
            break
        place = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0 | 1:
                data[place] = draw(st.integers(0, 255))
            case 2:
                del data[place:]
            case 3:
                data[place:place] = data[place : place + draw(st.integers(1, 40))]
    return bytes(data)


@st.composite
def _changed(draw: Draw, base: Message, suggested: Suggested, most: int) -> bytes:
    message = type(base)()
    message.CopyFrom(base)
    for _ in range(draw(st.integers(1, most))):
        _change(draw, message, suggested)
    return message.SerializeToString()


@st.composite
def _made_up(draw: Draw, base: Message, suggested: Suggested) -> bytes:
    message = type(base)()
    _fill(draw, message, suggested, depth=0)
    return message.SerializeToString()


def _change(draw: Draw, message: Message, suggested: Suggested) -> None:
    """Changes one field, of the message itself or of one inside it."""
    field = draw(st.sampled_from(_fields(message.DESCRIPTOR)))
    inside = _messages_in(message, field)
    if inside and draw(st.integers(0, 3)):
        _change(draw, draw(st.sampled_from(inside)), suggested)
    elif draw(st.integers(0, 3)):
        _set(draw, message, field, suggested, depth=0)
    else:
        message.ClearField(field.name)


def _messages_in(message: Message, field: FieldDescriptor) -> list[Message]:
    if field.message_type is None or not field.message_type.fields:
        return []
    if field.is_repeated:
        return list(getattr(message, field.name))
    return [getattr(message, field.name)] if message.HasField(field.name) else []


def _fill(draw: Draw, message: Message, suggested: Suggested, depth: int) -> None:
    fields = _fields(message.DESCRIPTOR)
    chosen = draw(st.lists(st.sampled_from(fields), max_size=6)) if fields else []
    for field in chosen:
        _set(draw, message, field, suggested, depth)


def _set(
    draw: Draw, message: Message, field: FieldDescriptor, suggested: Suggested, depth: int
) -> None:
    if not field.is_repeated and field.message_type is None:
        setattr(message, field.name, draw(_values(field, suggested)))
        return
    if field.message_type is None:
        values = draw(st.lists(_values(field, suggested), max_size=_MAX_REPEATED))
        getattr(message, field.name).extend(values)
        return
    if depth >= _MAX_DEPTH:
        return
    if not field.is_repeated:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _fill(draw, inner, suggested, depth + 1)
        return
    for _ in range(draw(st.integers(0, _MAX_REPEATED))):
        _fill(draw, getattr(message, field.name).add(), suggested, depth + 1)


def _values(field: FieldDescriptor, suggested: Suggested) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        usual = _BYTES
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        usual = _TEXTS
    else:
        usual = _TYPES[field.cpp_type]
    return suggested[field.name] | usual if field.name in suggested else usual


def _fields(descriptor: Descriptor) -> Sequence[FieldDescriptor]:
    return list(descriptor.fields)
