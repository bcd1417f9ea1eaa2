"""Gives each request what its forwards go through."""

from collections.abc import Mapping
from typing import Protocol

from torch import nn

from denoiser_service.acceleration.cache_dit import CacheDitBlocks, CacheDitSession
from denoiser_service.acceleration.tea_cache import TeaCacheSession
from services.domain.acceleration import Cache, CacheDit, NoCache, TeaCache
from services.domain.errors import TriptychError
from services.domain.stages import BranchDecision
from services.model_api.acceleration import Acceleration, BlockLists
from services.model_api.stages import CachingDenoiserModel


class Session(Acceleration, Protocol):
    """One request's acceleration, as the step loop sees it.

    Attributes:
        last_step: whether the step to come is the request's last.
        decisions: of the forwards of the step under way; the step loop empties it.
    """

    last_step: bool
    decisions: list[BranchDecision]


class Accelerator:
    """What a model's requests share: its blocks inside the library's. For one thread.

    Args:
        model: whose forwards are accelerated.
    """

    def __init__(self, model: CachingDenoiserModel) -> None:
        self._model = model
        self._cache_dit: dict[int, CacheDitBlocks] = {}

    def session(self, cache: Cache, steps_by_component: Mapping[str, int]) -> Session:
        """Fresh caches for one request.

        Args:
            cache: effective options.
            steps_by_component: how many of the request's steps each transformer takes.
        """
        lists: BlockLists = self._model.block_lists
        match cache:
            case TeaCache():
                return TeaCacheSession(cache, lists)
            case CacheDit():
                components: Mapping[str, nn.Module] = self._model.components
                for transformer in components.values():
                    if id(transformer) not in self._cache_dit:
                        self._cache_dit[id(transformer)] = CacheDitBlocks(transformer, lists)
                steps = {
                    id(transformer): steps_by_component[name]
                    for name, transformer in components.items()
                }
                return CacheDitSession(cache, lists, self._cache_dit, steps)
            case NoCache():
                raise TriptychError("a request without a cache needs no session")
