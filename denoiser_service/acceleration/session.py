"""Gives each request what its forwards go through."""

from collections.abc import Mapping
from typing import Protocol

from denoiser_service.acceleration.cache_dit import CacheDitSession
from denoiser_service.acceleration.tea_cache import TeaCacheSession
from services.domain.acceleration import CacheDit, TeaCache
from services.domain.stages import BranchDecision
from services.model_api.acceleration import Acceleration
from services.model_api.stages import CachingDenoiserModel


class Session(Acceleration, Protocol):
    """One request's acceleration, as the step loop sees it.

    Attributes:
        last_step: whether the step to come is the request's last.
        decisions: of the forwards of the step under way; the step loop empties it.
    """

    last_step: bool
    decisions: list[BranchDecision]


def open_session(
    model: CachingDenoiserModel, cache: TeaCache | CacheDit, steps_by_component: Mapping[str, int]
) -> Session:
    """Fresh caches for one request.

    Args:
        model: whose forwards are accelerated.
        cache: effective options.
        steps_by_component: how many of the request's steps each transformer takes.
    """
    if isinstance(cache, TeaCache):
        return TeaCacheSession(cache, model.block_lists)
    steps = {id(model.components[name]): count for name, count in steps_by_component.items()}
    return CacheDitSession(cache, model.block_lists, steps)
