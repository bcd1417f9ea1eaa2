"""Gives each request what its forwards go through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from denoiser_service.rank.acceleration.blocks import (
    ALL_HERE,
    BlockCall,
    Tokens,
    in_place_of_blocks,
)
from denoiser_service.rank.acceleration.cache_dit import CacheDitSession
from denoiser_service.rank.acceleration.tea_cache import TeaCacheSession
from services.model_ports.blocks import BlockLists
from services.model_ports.forwards import Acceleration, Branches
from services.model_ports.stages import CachingDenoiserModel, Tensors
from triptych.domain.acceleration import Cache, NoCache, TeaCache
from triptych.domain.cache_statistics import BranchDecision


class Session(Acceleration, Protocol):
    """One request's acceleration, as the step loop sees it.

    Attributes:
        last_step: whether the step to come is the request's last.
        decisions: of the forwards of the step under way; the step loop empties it.
    """

    last_step: bool
    decisions: list[BranchDecision]

    def save(self, components: Mapping[str, nn.Module], /) -> Tensors:
        """What the steps so far have left in its caches, as far as it can be saved.

        They are no copies, but no later step changes them.

        Args:
            components: the model's transformers by their names.
        """
        ...

    def restore(self, components: Mapping[str, nn.Module], saved: Tensors, /) -> bool:
        """Goes on from where another session of the same request was saved after a step or more.

        Args:
            components: the model's transformers by their names.
            saved: what `save` gave, maybe with others under further names; copied. Empty where it
                is of no use here.

        Returns:
            Whether its caches are as they were. What they lack is computed in the next step,
            whatever would have been reused.
        """
        ...


@dataclass(slots=True)
class PlainSession:
    """One request that reuses nothing, with its tokens on several ranks."""

    lists: BlockLists
    tokens: Tokens
    last_step: bool = False
    decisions: list[BranchDecision] = field(default_factory=list)

    def run(self, transformer: nn.Module, branches: Branches, /, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — see Acceleration
        """One forward, all blocks computed."""

        def run(_: str, blocks: Sequence[nn.Module], call: BlockCall) -> None:
            call.run(blocks, range(call.branches))

        with in_place_of_blocks(transformer, self.lists, self.tokens.spread(run, self.lists)):
            return transformer(*args, **inputs)

    def save(self, _: Mapping[str, nn.Module], /) -> Tensors:
        """There is nothing."""
        return {}

    def restore(self, _: Mapping[str, nn.Module], saved: Tensors, /) -> bool:
        """There is nothing."""
        return True


def open_session(
    model: CachingDenoiserModel,
    cache: Cache,
    steps_by_component: Mapping[str, int],
    tokens: Tokens = ALL_HERE,
) -> Session:
    """What the forwards of one request go through, with fresh caches.

    Args:
        model: whose forwards are accelerated.
        cache: effective options.
        steps_by_component: how many of the request's steps each transformer takes.
        tokens: where those of its forwards are.
    """
    if isinstance(cache, NoCache):
        return PlainSession(model.block_lists, tokens)
    if isinstance(cache, TeaCache):
        return TeaCacheSession(cache, model.block_lists, tokens)
    steps = {id(model.components[name]): count for name, count in steps_by_component.items()}
    return CacheDitSession(cache, model.block_lists, steps, tokens)
