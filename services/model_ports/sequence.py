"""How the tokens that run through a transformer's blocks are shared out over ranks.

Shapes: S tokens in all, of which a rank has the s that follow those of the rank before it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Arguments = Mapping[str, Any]


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
