"""A message that is one of several nouns."""

from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from triptych.codec.table import Table

M = TypeVar("M", bound=Message)


class Choice(Generic[M]):
    """Writes the noun that it is given, and reads the one that is there.

    Args:
        message: its class.
        oneof: the name of its oneof.
        tables: of the nouns, by the oneof's field.
        untold: the oneof's other fields, and why no noun stands for them.
    """

    def __init__(
        self,
        message: type[M],
        oneof: str,
        tables: Mapping[str, Table[Any, Any]],
        untold: Mapping[str, str],
    ) -> None:
        self.message = message
        self._oneof: Final = oneof
        self.tables, self.untold = dict(tables), dict(untold)
        names = {field.name for field in message.DESCRIPTOR.oneofs_by_name[oneof].fields}
        if left := names ^ (tables.keys() | untold.keys()):
            raise TypeError(f"{message.DESCRIPTOR.full_name}: nothing is said of {sorted(left)}")
        self._fields = {table.noun: name for name, table in tables.items()}

    def write(self, noun: object) -> M:
        """A message.

        Raises:
            InvalidRequest: with every value that it cannot carry.
            TypeError: there is no place in it for the noun.
        """
        if type(noun) not in self._fields:
            raise TypeError(f"{self.message.DESCRIPTOR.full_name} carries no {type(noun).__name__}")
        name = self._fields[type(noun)]
        message = self.message()
        getattr(message, name).CopyFrom(self.tables[name].write(noun))
        return message

    def read(self, message: M, *, strict: bool = True) -> Any:
        """The noun; None where nothing, or nothing that has one, is there.

        Raises:
            InvalidRequest: with every field that is refused.
        """
        name = message.WhichOneof(self._oneof)
        if name not in self.tables:
            return None
        return self.tables[name].read(getattr(message, name), f"{name}.", strict=strict)
