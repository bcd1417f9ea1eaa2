"""How the forwards of a step are run: accelerated, by branches, with those of other requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from torch import nn

CONDITIONAL: Final = "cond"
UNCONDITIONAL: Final = "uncond"
"""Names of guidance branches."""

Branches = str | tuple[str, ...]
"""Which branches a forward is of: one, or one for each row of its batch."""


class Acceleration(Protocol):
    """What a request's forwards go through. It belongs to one request, as its state does."""

    def run(self, transformer: nn.Module, branches: Branches, /, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — whatever the transformer takes and gives
        """One forward of one guidance branch, or of several.

        Args:
            transformer: which of the model's; experts are told apart by it.
            branches: for example CONDITIONAL, or (UNCONDITIONAL, CONDITIONAL).
            args: of the transformer.
            inputs: of the transformer.
        """
        ...


class Unaccelerated:
    """Every forward is computed."""

    def run(self, transformer: nn.Module, branches: Branches, /, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — see Acceleration
        """Calls the transformer."""
        return transformer(*args, **inputs)


UNACCELERATED: Final = Unaccelerated()


def each_branch(branches: Branches) -> tuple[str, ...]:
    """Their names, in the order of the batch's rows."""
    return (branches,) if isinstance(branches, str) else branches


Velocity = Callable[[], torch.Tensor]
"""One branch of a step: runs its forward and gives its velocity."""


class BranchRunner(Protocol):
    """Runs the branches of a request's steps. It belongs to one request, as its state does."""

    @property
    def share_forwards(self) -> bool:
        """Whether branches may be rows of one forward instead."""
        ...

    def run(self, branches: Mapping[str, Velocity], /) -> list[torch.Tensor]:
        """The velocity of every branch of a step, in their order, all of one shape."""
        ...


class InTurn:
    """One branch after the other."""

    share_forwards = True

    def run(self, branches: Mapping[str, Velocity], /) -> list[torch.Tensor]:
        """Runs them all."""
        return [velocity() for velocity in branches.values()]


IN_TURN: Final = InTurn()


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
