"""Where a transformer keeps its blocks, and how their tokens are shared out over ranks.

Shapes: S tokens in all, of which a rank has the s that follow those of the rank before it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

Arguments = Mapping[str, Any]
Block = Any
"""One of a transformer's blocks; they are published without types."""


@dataclass(frozen=True, slots=True)
class TokenShare:
    """One rank's share of the tokens of a forward; shares differ by one token at most.

    Attributes:
        parts: how many ranks share them.
        index: which of those this one is.
        prompt_tokens: how many tokens of the prompt are shared out by themselves.
    """

    parts: int
    index: int
    prompt_tokens: int = 0

    def of(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's part of a tensor along its axis of tokens: S becomes s."""
        return tensor.tensor_split(self.parts, dim=dim)[self.index]

    def of_joint(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The same where the prompt's tokens come first and those that are drawn after them."""
        prompt = tensor.narrow(dim, 0, self.prompt_tokens)
        drawn = tensor.narrow(dim, self.prompt_tokens, tensor.shape[dim] - self.prompt_tokens)
        return torch.cat([self.of(prompt, dim), self.of(drawn, dim)], dim=dim)

    def lengths(self, tokens: int) -> list[int]:
        """How many of S tokens each rank has."""
        each, left = divmod(tokens, self.parts)
        return [each + (index < left) for index in range(self.parts)]

    def before(self, tokens: int) -> int:
        """How many of S tokens the ranks before this one have."""
        return sum(self.lengths(tokens)[: self.index])


def _nothing(_: Arguments) -> Sequence[int]:
    return ()


@dataclass(frozen=True, slots=True)
class SequenceSplit:
    """Which of a block's arguments tell of single tokens, and what its attentions are over.

    What is drawn is shared out always.

    Attributes:
        constants: of a block's arguments those that are the same for all blocks and tell of single
            tokens, each with this rank's share in its place.
        prompt: whether the prompt's tokens are shared out too; every rank keeps all of them
            otherwise.
        drawn_only: attentions inside a block over nothing but what is drawn.
        every_key: attentions inside a block whose keys each rank has all of.
        context: of a block's arguments, the tokens that attentions are over besides: how many are
            in each piece that `constants` shares out.
    """

    constants: Callable[[Arguments, TokenShare], Mapping[str, Any]]
    prompt: bool = True
    drawn_only: tuple[str, ...] = ()
    every_key: tuple[str, ...] = ()
    context: Callable[[Arguments], Sequence[int]] = _nothing


def joint_rotary(arguments: Arguments, share: TokenShare) -> Mapping[str, Any]:
    """Of blocks that turn heads by cosines and sines [S, D] of the prompt and what is drawn."""
    rotary = arguments["image_rotary_emb"]
    return {"image_rotary_emb": tuple(share.of_joint(each, 0) for each in rotary)}


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
