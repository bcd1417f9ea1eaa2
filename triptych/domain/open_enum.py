"""Words of the interface, to which a newer release may add."""

from enum import StrEnum
from typing import Self


class OpenEnum(StrEnum):
    """Members are equal to their words, so that callers may give and compare plain strings."""

    @classmethod
    def unknown(cls, word: str) -> Self:
        """What stands for a value that this release has no word for; equal to no member."""
        member = str.__new__(cls, word)
        member._name_, member._value_ = word.upper(), word
        return member
