"""One sequence of tokens on several ranks, from before a transformer's blocks until after them.

What is before and after the blocks, which is little work, every rank does for all tokens. Caches
run the blocks inside and see this rank's share alone.
"""

from collections.abc import Sequence

import torch
from torch import nn

from denoiser_service.rank.acceleration.blocks import BlockCall, RunBlocks
from denoiser_service.rank.parallel.attention import Lengths, Reach, SequenceAttention
from denoiser_service.rank.parallel.exchange import all_tokens, total
from denoiser_service.rank.parallel.mesh import RankMesh
from services.model_ports.blocks import BlockLists, SequenceSplit, TokenShare


class SharedSequence:
    """See services.model_ports.blocks, and denoiser_service.rank.acceleration.blocks.Tokens.

    Args:
        mesh: the ranks.
        attention: that of the model's blocks.
    """

    def __init__(self, mesh: RankMesh, attention: SequenceAttention) -> None:
        self._mesh = mesh
        self._attention = attention

    def spread(self, run: RunBlocks, lists: BlockLists, *, joined: bool = False) -> RunBlocks:
        """Shares tokens out before the first list of one forward, and gathers after the last."""
        first, last = lists.names[0], lists.names[0 if joined else -1]
        forward: _Forward | None = None

        def run_share(name: str, blocks: Sequence[nn.Module], call: BlockCall) -> None:
            nonlocal forward
            if name == first:
                forward = _Forward(call, self._mesh)
            assert forward is not None
            forward.take_constants(call)
            with self._attention.over(self._mesh, forward.everything, forward.drawn):
                run(name, blocks, call)
            if name == last:
                forward.gather(call)

        return run_share

    def means(self, *magnitudes: torch.Tensor) -> list[torch.Tensor]:
        """The mean over all ranks of each tensor, of which a rank has its share."""
        sums = torch.stack([magnitude.float().sum() for magnitude in magnitudes])
        counts = sums.new_tensor([magnitude.numel() for magnitude in magnitudes])
        everywhere = total(torch.cat([sums, counts]), self._mesh.sequence)
        return list(everywhere[: len(magnitudes)] / everywhere[len(magnitudes) :])


class _Forward:
    """One forward's tokens."""

    def __init__(self, call: BlockCall, mesh: RankMesh) -> None:
        lists = call.lists
        self._split = split_of(lists)
        self._axis = mesh.sequence
        # Where its tokens are not shared out by themselves, every rank has them all.
        prompt = lists.encoder if self._split.prompt else None
        prompt_tokens = 0 if prompt is None else call.arguments[prompt].shape[1]
        self._share = TokenShare(self._axis.size, self._axis.index, prompt_tokens)
        self._lengths = self._share.lengths(call.hidden.shape[1])
        self.drawn = Lengths(self._lengths, self._lengths)
        own = [self._lengths, self._share.lengths(prompt_tokens)]
        context = map(self._share.lengths, self._split.context(call.arguments))
        queries = list(map(sum, zip(*own, strict=True)))
        self.everything = Lengths(queries, list(map(sum, zip(queries, *context, strict=True))))
        call.arguments[lists.hidden] = self._share.of(call.hidden, 1)
        if prompt is not None:
            call.arguments[prompt] = self._share.of(call.arguments[prompt], 1)

    def take_constants(self, call: BlockCall) -> None:
        call.arguments.update(self._split.constants(call.arguments, self._share))

    def gather(self, call: BlockCall) -> None:
        call.arguments[call.lists.hidden] = all_tokens(call.hidden, 1, self._axis, self._lengths)


def split_of(lists: BlockLists) -> SequenceSplit:
    """How a model's tokens are shared out; asked of models that say they can be."""
    assert lists.split is not None
    return lists.split


def narrow_attentions(attention: SequenceAttention, lists: BlockLists, block: nn.Module) -> None:
    """Tells an attention which parts of a block reach less far than over all tokens."""
    split = split_of(lists)
    for names, reach in ((split.drawn_only, Reach.DRAWN), (split.every_key, Reach.RANK)):
        for name in names:
            part = getattr(block, name)
            if part is not None:
                attention.narrow(part, reach)
