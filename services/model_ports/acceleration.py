"""How a transformer is called: as it is, or through something that reuses work between steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import torch
from torch import nn

from services.model_ports.sequence import SequenceSplit

CONDITIONAL: Final = "cond"
UNCONDITIONAL: Final = "uncond"
"""Names of guidance branches."""

Branches = str | tuple[str, ...]
"""Which branches a forward is of: one, or one for each row of its batch."""

Arguments = Mapping[str, Any]
Block = Any
"""One of a transformer's blocks; they are published without types."""


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


@dataclass(frozen=True, slots=True)
class BlockLists:
    """Where a transformer keeps its blocks, and how it calls them.

    Attributes:
        names: of its attributes, with dots inside its parts, in the order they run; all blocks of
            a list are called alike.
        hidden: the argument that carries what is drawn.
        encoder: the argument that carries the prompt's tokens beside it; None if there is none.
        returns: what a block gives: hidden states alone, or the prompt's tokens and then those, or
            those and then something that nobody reads while a picture is drawn.
        mask: the argument that says which tokens of a row are there [rows, tokens], the others only
            fill it up; None if no row is ever filled up.
        joined: whether Cache-DiT counts all lists as one, as it does for FLUX by default.
        forecasts_encoder: whether the last block gives the prompt's tokens too.
        split: how tokens are shared out over ranks; None where they cannot be.
        signal: what a first block makes of its arguments before attention; it changes from step to
            step about as much as the output of all blocks does.
    """

    names: tuple[str, ...]
    signal: Callable[[Block, Arguments], torch.Tensor]
    hidden: str = "hidden_states"
    encoder: str | None = "encoder_hidden_states"
    returns: Literal["hidden", "encoder, hidden", "hidden, unread"] = "encoder, hidden"
    mask: str | None = None
    joined: bool = False
    forecasts_encoder: bool = True
    split: SequenceSplit | None = None


def adaptive_norm_signal(block: Block, arguments: Arguments) -> torch.Tensor:
    """Of blocks whose first norm takes the time embedding."""
    modulated, *_ = block.norm1(arguments["hidden_states"], emb=arguments["temb"])
    assert isinstance(modulated, torch.Tensor)
    return modulated
