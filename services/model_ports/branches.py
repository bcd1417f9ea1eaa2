"""How the guidance branches of a step are run: in turn, or on several ranks at the same time."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import torch

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
