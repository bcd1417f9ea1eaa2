"""Numbers that JSON, in which a denoiser tells its ranks, has no words for."""

import math
from collections.abc import Iterator

from google.protobuf.message import Message

from triptych.domain.errors import FieldViolation


def infinite_numbers(message: Message, path: str = "") -> Iterator[FieldViolation]:
    """Every number of a message that is not finite."""
    for field, value in message.ListFields():
        name = f"{path}{field.name}"
        for element in value if field.is_repeated else (value,):
            if isinstance(element, Message):
                yield from infinite_numbers(element, f"{name}.")
            elif isinstance(element, float) and not math.isfinite(element):
                yield FieldViolation(name, f"is {element}; allowed are finite numbers")
