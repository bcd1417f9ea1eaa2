"""Cache-DiT's DBCache, TaylorSeer and masks, by its own library, with a session per request.

The library keeps one context per transformer and guesses branches by counting forwards. Here every
(request, branch, transformer) has contexts of its own, put in place before each forward: requests
that take turns, and branches that are left out, change nothing for the others.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from denoiser_service.acceleration.blocks import blocks_of, in_place_of
from services.domain.acceleration import CacheDit, MaskPolicy, has_mask
from services.domain.stages import BranchDecision
from services.model_api.acceleration import BlockLists

Contexts = dict[str, Any]
"""The library's contexts by the names of a transformer's lists."""


class CacheDitBlocks:
    """A transformer's lists of blocks inside the library's cached ones.

    Args:
        transformer: whose they are; left as it is.
        lists: how they are called.
    """

    def __init__(self, transformer: nn.Module, lists: BlockLists) -> None:
        from cache_dit.caching import ForwardPattern
        from cache_dit.caching.cache_blocks import CachedBlocks
        from cache_dit.caching.cache_contexts.cache_manager import CachedContextManager
        from cache_dit.logger import suppress_loggers

        # Its modules tell of every list of blocks, on standard output.
        suppress_loggers(["cache_dit*"])
        pattern = (
            ForwardPattern.Pattern_1
            if lists.returns == "encoder, hidden"
            else (ForwardPattern.Pattern_3 if lists.encoder is None else ForwardPattern.Pattern_2)
        )
        self._manager = CachedContextManager(name=type(transformer).__name__)
        blocks: dict[str, nn.ModuleList] = {
            name: blocks_of(transformer, name) for name in lists.names
        }
        joined = nn.ModuleList([each for name in lists.names for each in blocks[name]])
        self.stacks: Mapping[str, nn.Module | None] = {
            name: None
            if name not in counted(lists)
            else CachedBlocks(
                joined if lists.joined else blocks[name],
                transformer=transformer,
                forward_pattern=pattern,
                check_forward_pattern=False,
                check_num_outputs=False,
                cache_prefix=name,
                cache_context=name,
                context_manager=self._manager,
            )
            for name in lists.names
        }

    @contextmanager
    def using(self, contexts: Contexts) -> Iterator[None]:
        """Puts a branch's contexts in place for one forward, and keeps nothing of them."""
        manager = self._manager
        manager._cached_context_manager = contexts  # noqa: SLF001 — see the module's text
        try:
            yield
        finally:
            manager._cached_context_manager = {}  # noqa: SLF001 — as above
            manager._current_context = None  # noqa: SLF001 — as above


def contexts_for(cache: CacheDit, lists: BlockLists, steps: int) -> Contexts:
    """Fresh contexts of one branch.

    Args:
        cache: effective options.
        lists: of the transformer.
        steps: forwards of the branch, where a mask needs to know.
    """
    from cache_dit import DBCacheConfig, TaylorSeerCalibratorConfig
    from cache_dit.caching.cache_contexts.cache_context import CachedContext

    scm, order = cache.scm, cache.taylorseer_order
    config = DBCacheConfig(
        Fn_compute_blocks=cache.fn_compute_blocks,
        Bn_compute_blocks=cache.bn_compute_blocks,
        residual_diff_threshold=cache.residual_diff_threshold,
        max_warmup_steps=cache.max_warmup_steps,
        max_cached_steps=cache.max_cached_steps,
        max_continuous_cached_steps=cache.max_continuous_cached_steps,
        # A branch has contexts of its own, and ends with its request.
        enable_separate_cfg=False,
        num_inference_steps=None,
        steps_computation_mask=None if scm is None else steps_mask(scm.mask_policy, steps),
        steps_computation_policy="dynamic" if scm is None else scm.policy.value,
    )
    calibrator = None
    if order is not None:
        # A last block that drops the prompt's tokens leaves nothing of them to forecast.
        calibrator = TaylorSeerCalibratorConfig(
            taylorseer_order=order, enable_encoder_calibrator=lists.forecasts_encoder
        )
    return {
        name: CachedContext(name=name, cache_config=config, calibrator_config=calibrator)
        for name in counted(lists)
    }


def counted(lists: BlockLists) -> tuple[str, ...]:
    """The lists that the library counts by themselves."""
    return lists.names[:1] if lists.joined else lists.names


def steps_mask(policy: MaskPolicy, steps: int) -> list[int]:
    """The library's mask: 1 for a step that is computed, 0 for one that may be reused.

    An expert may take fewer of a request's steps than there are masks for; it computes them all.
    """
    from cache_dit import steps_mask as masked

    if not has_mask(steps):
        return [1] * steps
    return list(masked(total_steps=steps, mask_policy=policy.value))


@dataclass(slots=True)
class CacheDitSession:
    """One request's Cache-DiT; see services.model_api.acceleration.Acceleration.

    Attributes:
        blocks: of every transformer the request may run, by its identity.
        steps: forwards of each branch, by the same.
        decisions: of the step under way.
    """

    cache: CacheDit
    lists: BlockLists
    blocks: Mapping[int, CacheDitBlocks]
    steps: Mapping[int, int]
    last_step: bool = False
    decisions: list[BranchDecision] = field(default_factory=list)
    _contexts: dict[tuple[int, str], Contexts] = field(default_factory=dict)

    def run(self, transformer: nn.Module, branch: str, /, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — see Acceleration
        """One forward, its middle blocks run or skipped."""
        key = (id(transformer), branch)
        if key not in self._contexts:
            self._contexts[key] = contexts_for(self.cache, self.lists, self.steps[key[0]])
        contexts, blocks = self._contexts[key], self.blocks[key[0]]
        with blocks.using(contexts), in_place_of(transformer, blocks.stacks):
            output = transformer(*args, **inputs)
        self.decisions.append(_decision(branch, contexts))
        return output


def _decision(branch: str, contexts: Contexts) -> BranchDecision:
    """Of the forward that was just made: reused is what all of its lists reused."""
    step = next(iter(contexts.values())).get_current_step()
    reused = all(step in each.get_cached_steps() for each in contexts.values())
    differences = next(iter(contexts.values())).get_residual_diffs()
    signal = differences.get(str(step))
    return BranchDecision(branch, reused, None if signal is None or signal < 0 else float(signal))
