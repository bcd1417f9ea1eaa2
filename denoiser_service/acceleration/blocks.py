"""Runs a transformer's forward with something else in the place of its blocks.

The stock forward stays: embedding, positions and output are never rewritten, only whatever it finds
where its lists of blocks are.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from inspect import Signature, signature
from typing import Any

import torch
from torch import nn

from services.model_api.acceleration import BlockLists


@contextmanager
def in_place_of(transformer: nn.Module, stacks: Mapping[str, nn.Module | None]) -> Iterator[None]:
    """Puts one module each in the place of a transformer's lists of blocks, for one forward.

    Nothing is put in the place of a list that runs inside another's.

    For one thread: whoever calls the transformer meanwhile would meet them too.
    """
    originals = {name: blocks_of(transformer, name) for name in stacks}
    try:
        for name, stack in stacks.items():
            _put(transformer, name, nn.ModuleList([] if stack is None else [stack]))
        yield
    finally:
        for name, blocks in originals.items():
            _put(transformer, name, blocks)


def blocks_of(transformer: nn.Module, name: str) -> nn.ModuleList:
    """One of a transformer's lists of blocks."""
    blocks = transformer.get_submodule(name)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _put(transformer: nn.Module, name: str, blocks: nn.ModuleList) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(transformer.get_submodule(owner), attribute, blocks)


@dataclass(slots=True)
class BlockCall:
    """How a transformer called a block, with what runs through all of them to be changed.

    Attributes:
        arguments: by their names; defaults filled in.
    """

    lists: BlockLists
    arguments: dict[str, Any]

    @property
    def hidden(self) -> torch.Tensor:
        """What is drawn."""
        hidden = self.arguments[self.lists.hidden]
        assert isinstance(hidden, torch.Tensor)
        return hidden

    def take(self, output: Any) -> None:  # noqa: ANN401 — whatever a block gives
        """Goes on from what a block gave."""
        if self.lists.returns == "hidden":
            self.arguments[self.lists.hidden] = output
        elif self.lists.returns == "hidden, unread":
            self.arguments[self.lists.hidden], _ = output
        else:
            encoder, hidden = output
            assert self.lists.encoder is not None
            self.arguments[self.lists.encoder] = encoder
            self.arguments[self.lists.hidden] = hidden

    def output(self, hidden: torch.Tensor) -> Any:  # noqa: ANN401 — whatever a block gives
        """What a block would have given that made these hidden states and left the rest."""
        if self.lists.returns == "hidden":
            return hidden
        if self.lists.returns == "hidden, unread":
            return hidden, None
        assert self.lists.encoder is not None
        return self.arguments[self.lists.encoder], hidden


class BlockStack(nn.Module):
    """Stands for a list of blocks and lets somebody else run them.

    Args:
        blocks: the list.
        lists: how they are called.
        run: called with the blocks and the call; gives what the last block would give.
    """

    def __init__(
        self,
        blocks: nn.ModuleList,
        lists: BlockLists,
        run: Callable[[nn.ModuleList, BlockCall], Any],
    ) -> None:
        super().__init__()
        # Not as a part: the blocks are the transformer's own.
        self._blocks = (blocks,)
        self._lists = lists
        self._run = run
        self._signature = _signature(type(blocks[0]).forward)

    def forward(self, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — whatever a block takes and gives
        """Called once, in the place of every block."""
        bound = self._signature.bind(*args, **inputs)
        bound.apply_defaults()
        (blocks,) = self._blocks
        return self._run(blocks, BlockCall(self._lists, dict(bound.arguments)))


@cache
def _signature(forward: Callable[..., Any]) -> Signature:
    """Of a block's forward, without the block itself; read once, not in every forward."""
    _, *parameters = signature(forward).parameters.values()
    return Signature(parameters)


def run_all(blocks: nn.ModuleList, call: BlockCall) -> Any:  # noqa: ANN401 — whatever a block gives
    """Runs the blocks one after the other, as the transformer itself would."""
    output = None
    for block in blocks:
        output = block(**call.arguments)
        call.take(output)
    return output
