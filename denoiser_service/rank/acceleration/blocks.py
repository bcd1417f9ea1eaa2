"""Runs a transformer's forward with something else in the place of its blocks.

The stock forward stays: embedding, positions and output are never rewritten, only whatever it finds
where its lists of blocks are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from inspect import Signature, signature
from typing import Any, Final, Protocol

import torch
from torch import nn

from services.model_ports.blocks import BlockLists

States = tuple[torch.Tensor, torch.Tensor | None]
"""What is drawn, and the prompt's tokens where blocks change them."""


@dataclass(slots=True)
class BlockCall:
    """How a transformer called a block, with what runs through all of them to be changed.

    Attributes:
        lists: how its blocks are called.
        branches: how many guidance branches the forward is of. Where there are several, each is one
            row of every tensor.
        arguments: by their names; defaults filled in.
    """

    lists: BlockLists
    branches: int
    arguments: dict[str, Any]

    @property
    def hidden(self) -> torch.Tensor:
        """What is drawn."""
        hidden = self.arguments[self.lists.hidden]
        assert isinstance(hidden, torch.Tensor)
        return hidden

    @property
    def encoder(self) -> torch.Tensor | None:
        """The prompt's tokens, where blocks change them."""
        if self.lists.returns != "encoder, hidden":
            return None
        assert self.lists.encoder is not None
        encoder: torch.Tensor | None = self.arguments[self.lists.encoder]
        return encoder

    def own(self, tensor: torch.Tensor, branch: int) -> torch.Tensor:
        """A branch's part of a tensor."""
        return tensor if self.branches == 1 else tensor[branch : branch + 1]

    def states(self, branch: int) -> States:
        """A branch's part of what runs through the blocks."""
        encoder = self.encoder
        return self.own(self.hidden, branch), encoder if encoder is None else self.own(
            encoder, branch
        )

    def seen(self, own: torch.Tensor, branch: int) -> torch.Tensor:
        """A branch's part of hidden states, with zeros where its row is only filled up.

        They weigh nothing in a relative distance, so that a branch decides as it would by itself.
        """
        mask = self.arguments[self.lists.mask] if self.lists.mask is not None else None
        return own if mask is None else own * self.own(mask, branch).unsqueeze(-1)

    def run(self, blocks: Sequence[nn.Module], branches: Sequence[int]) -> None:
        """Runs blocks over some of the branches, as the transformer itself would."""
        if len(branches) == self.branches:
            for block in blocks:
                self._take(block(**self.arguments))
        elif branches:
            part = self._of(branches)
            part.run(blocks, range(len(branches)))
            self.put(branches, part.hidden, part.encoder)

    def put(
        self, branches: Sequence[int], hidden: torch.Tensor, encoder: torch.Tensor | None
    ) -> None:
        """Goes on from these states in the place of some of the branches' own."""
        self._put(self.lists.hidden, branches, hidden)
        if self.lists.returns == "encoder, hidden":
            assert self.lists.encoder is not None
            self._put(self.lists.encoder, branches, encoder)

    def output(self) -> Any:  # noqa: ANN401 — whatever a block gives
        """What a block would give that made these states."""
        if self.lists.returns == "hidden":
            return self.hidden
        if self.lists.returns == "hidden, unread":
            return self.hidden, None
        return self.encoder, self.hidden

    def _of(self, branches: Sequence[int]) -> "BlockCall":
        """The same call of some of the branches alone."""
        rows, arguments = list(branches), dict(self.arguments)
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor):
                assert len(value) == self.branches, f"{name} has no row for each branch"
                arguments[name] = value[rows]
        return replace(self, branches=len(rows), arguments=arguments)

    def _put(self, name: str, branches: Sequence[int], own: torch.Tensor | None) -> None:
        together: torch.Tensor | None = self.arguments[name]
        if len(branches) == self.branches:
            together = own
        elif own is None or together is None:
            # A last block drops the prompt's tokens; nobody reads those of the others then.
            together = None
        else:
            together = together.clone()
            together[list(branches)] = own
        self.arguments[name] = together

    def _take(self, output: Any) -> None:  # noqa: ANN401 — whatever a block gives
        everybody = range(self.branches)
        if self.lists.returns == "hidden":
            self.put(everybody, output, None)
        elif self.lists.returns == "hidden, unread":
            self.put(everybody, output[0], None)
        else:
            encoder, hidden = output
            self.put(everybody, hidden, encoder)


RunBlocks = Callable[[str, Sequence[nn.Module], BlockCall], None]
"""Takes a call through the blocks of a list: the list's name, its blocks, the call to change."""


class Tokens(Protocol):
    """Where the tokens are that run through blocks: here, or on several ranks."""

    def spread(self, run: RunBlocks, lists: BlockLists, *, joined: bool = False) -> RunBlocks:
        """What takes the place of a transformer's lists of blocks for one forward.

        Args:
            run: runs the blocks over the tokens that are here.
            lists: where the blocks are.
            joined: whether all blocks are run in the place of the first list.
        """
        ...

    def means(self, *magnitudes: torch.Tensor) -> list[torch.Tensor]:
        """The mean over all tokens of each tensor that is made of those that are here."""
        ...


class AllHere:
    """One process has all tokens."""

    def spread(self, run: RunBlocks, lists: BlockLists, *, joined: bool = False) -> RunBlocks:
        """Nothing is spread."""
        return run

    def means(self, *magnitudes: torch.Tensor) -> list[torch.Tensor]:
        """Their means."""
        return [magnitude.float().mean() for magnitude in magnitudes]


ALL_HERE: Final = AllHere()


@contextmanager
def in_place_of_blocks(
    transformer: nn.Module,
    lists: BlockLists,
    run: RunBlocks,
    *,
    branches: int = 1,
    joined: bool = False,
) -> Iterator[None]:
    """Lets somebody else run a transformer's blocks for one forward.

    For one thread: whoever calls the transformer meanwhile would meet them too.

    Args:
        transformer: whose forward it is.
        lists: where its blocks are.
        run: takes the place of each list.
        branches: how many guidance branches the forward is of.
        joined: whether all blocks are run in the place of the first list.
    """
    originals = {name: _blocks_of(transformer, name) for name in lists.names}
    every = [block for blocks in originals.values() for block in blocks]
    try:
        for name, blocks in originals.items():
            if not joined:
                stacks = [_BlockStack(name, blocks, lists, branches, run)]
            elif name == lists.names[0]:
                stacks = [_BlockStack(name, every, lists, branches, run)]
            else:
                stacks = []
            _put(transformer, name, nn.ModuleList(stacks))
        yield
    finally:
        for name, blocks in originals.items():
            _put(transformer, name, blocks)


def _blocks_of(transformer: nn.Module, name: str) -> nn.ModuleList:
    blocks = transformer.get_submodule(name)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _put(transformer: nn.Module, name: str, blocks: nn.ModuleList) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(transformer.get_submodule(owner), attribute, blocks)


class _BlockStack(nn.Module):
    """Stands for a list of blocks and lets somebody else run them."""

    def __init__(
        self,
        name: str,
        blocks: Sequence[nn.Module] | nn.ModuleList,
        lists: BlockLists,
        branches: int,
        run: RunBlocks,
    ) -> None:
        super().__init__()
        # Not as a part: the blocks are the transformer's own.
        self._blocks = list(blocks)
        self._name = name
        self._lists = lists
        self._branches = branches
        self._run = run

    def forward(self, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — whatever a block takes and gives
        """Called once, in the place of every block."""
        bound = _signature(type(self._blocks[0]).forward).bind(*args, **inputs)
        bound.apply_defaults()
        call = BlockCall(self._lists, self._branches, dict(bound.arguments))
        self._run(self._name, self._blocks, call)
        return call.output()


@cache
def _signature(forward: Callable[..., Any]) -> Signature:
    """Of a block's forward, without the block itself; read once, not in every forward."""
    _, *parameters = signature(forward).parameters.values()
    return Signature(parameters)
