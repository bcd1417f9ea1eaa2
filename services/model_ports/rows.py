"""How forwards of several requests become one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

NO_NAMES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rows:
    """What a transformer's inputs are to the rows of a batch.

    Tensors have their rows along the first axis and lists one entry for each, unless named here.
    Everything else must be the same for all.

    Attributes:
        shared: inputs that all rows read from; the same for all of them.
        padded: inputs [rows, tokens, ...] whose tokens may be of different numbers, each with the
            input that then says which count, a mask [rows, tokens].
    """

    shared: frozenset[str] = NO_NAMES
    padded: Mapping[str, str] = field(default_factory=dict)
