"""What a noun says of its own fields: types, how many, defaults, and bounds."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import Interval


@dataclass(frozen=True, slots=True)
class Hint:
    """A noun's field: the type of one value, and how many there may be."""

    kinds: tuple[Any, ...]
    optional: bool
    repeated: bool
    marks: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, Any]:
        """The lowest and the highest value that stand beside the field; None for no bound."""
        bounds = [(mark.ge, mark.le) for mark in self.marks if isinstance(mark, Interval)]
        return bounds[0] if bounds else (None, None)


def field_defaults(noun: type) -> dict[str, Callable[[], Any] | None]:
    """The fields of a noun, each with what makes its default."""
    if not is_dataclass(noun):
        # A pydantic model's own defaults are its own affair.
        return dict.fromkeys(noun.model_fields)  # type: ignore[attr-defined]
    made: dict[str, Callable[[], Any] | None] = {}
    for field in fields(noun):
        if field.default_factory is not MISSING:
            made[field.name] = field.default_factory
        else:
            made[field.name] = None if field.default is MISSING else _always(field.default)
    return made


def _always(value: object) -> Callable[[], object]:
    return lambda: value


def hint_of(annotation: Any) -> Hint:
    """What an annotation says."""
    marks: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        marks = annotation.__metadata__
        annotation = get_args(annotation)[0]
    kinds = [annotation]
    if get_origin(annotation) in (Union, UnionType):
        kinds = list(get_args(annotation))
    optional = NoneType in kinds
    kinds = [kind for kind in kinds if kind is not NoneType]
    repeated = get_origin(kinds[0]) is tuple
    if repeated:
        kinds = [get_args(kinds[0])[0]]
        if get_origin(kinds[0]) is Annotated:
            kinds = [get_args(kinds[0])[0]]
    return Hint(tuple(kinds), optional, repeated, marks)
