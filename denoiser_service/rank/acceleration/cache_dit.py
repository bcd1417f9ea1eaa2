"""Cache-DiT's DBCache, TaylorSeer and masks: its library decides and forecasts, per request.

The library keeps one context per transformer and guesses branches by counting forwards, in blocks
of its own that run a whole batch one way. Here every (request, branch, transformer) has contexts of
its own, and the blocks are run for the branches that need it: requests that take turns, branches
that are left out and branches that share a forward change nothing for the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from denoiser_service.rank.acceleration.blocks import (
    ALL_HERE,
    BlockCall,
    States,
    Tokens,
    in_place_of_blocks,
)
from services.model_ports.blocks import BlockLists
from services.model_ports.forwards import Branches, each_branch
from services.model_ports.stages import Tensors
from triptych.domain.acceleration import CacheDit, MaskPolicy, ReusePolicy, has_mask
from triptych.domain.cache_statistics import BranchDecision

Managers = Mapping[str, Any]
"""The library's managers, of one context each, by the names of a transformer's lists."""

# How they name what they keep: what the first blocks added, which decides, and what those after
# them added, which is reused.
_FIRST, _MIDDLE = "Fn_residual", "Bn_residual"


def managers_for(
    cache: CacheDit, lists: BlockLists, steps: int, tokens: Tokens = ALL_HERE
) -> Managers:
    """Fresh state of one branch.

    Args:
        cache: effective options.
        lists: of the transformer.
        steps: forwards of the branch, where a mask needs to know.
        tokens: where those of the branch are.
    """
    from cache_dit import DBCacheConfig, TaylorSeerCalibratorConfig
    from cache_dit.caching.cache_contexts.cache_context import CachedContext

    mask, order = cache.scm_mask_policy, cache.taylorseer_order
    config = DBCacheConfig(
        Fn_compute_blocks=cache.fn_compute_blocks,
        Bn_compute_blocks=cache.bn_compute_blocks,
        residual_diff_threshold=cache.residual_diff_threshold,
        max_accumulated_residual_diff_threshold=cache.max_accumulated_residual_diff_threshold,
        max_warmup_steps=cache.max_warmup_steps,
        warmup_interval=cache.warmup_interval,
        max_cached_steps=cache.max_cached_steps,
        max_continuous_cached_steps=cache.max_continuous_cached_steps,
        # A branch has contexts of its own, and ends with its request.
        enable_separate_cfg=False,
        num_inference_steps=None,
        steps_computation_mask=None if mask is None else steps_mask(MaskPolicy(mask), steps),
        steps_computation_policy=cache.scm_policy or ReusePolicy.DYNAMIC,
    )
    calibrator = None
    if order is not None:
        # A last block that drops the prompt's tokens leaves nothing of them to forecast.
        calibrator = TaylorSeerCalibratorConfig(
            taylorseer_order=order, enable_encoder_calibrator=lists.forecasts_encoder
        )
    managers = {}
    for name in lists.names[:1] if lists.joined else lists.names:
        managers[name] = _manager(name, tokens)
        managers[name].set_context(
            CachedContext(name, cache_config=config, calibrator_config=calibrator)
        )
    return managers


def _manager(name: str, tokens: Tokens) -> Any:  # noqa: ANN401 — the library's
    from cache_dit.caching.cache_contexts.cache_manager import CachedContextManager

    class Manager(CachedContextManager):  # type: ignore[misc]
        """Compares what all ranks of a sequence have; the library asks every rank there is."""

        def similarity(
            self,
            before: torch.Tensor,
            now: torch.Tensor,
            **options: Any,  # noqa: ANN401 — the library's
        ) -> bool:
            options["parallelized"] = False
            if (
                tokens is not ALL_HERE
                and 0 < options["threshold"] < 1
                and before.shape == now.shape
            ):
                length, change = tokens.means(before.abs(), (before - now).abs())
                before, now = length.double(), length.double() - change.double()
            similar: bool = super().similarity(before, now, **options)
            return similar

    return Manager(name)


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
    """One request's Cache-DiT; see services.model_ports.forwards.Acceleration.

    Attributes:
        steps: forwards of each branch, of every transformer the request may run, by its identity.
        decisions: of the step under way.
        tokens: where those of its forwards are.
    """

    cache: CacheDit
    lists: BlockLists
    steps: Mapping[int, int]
    tokens: Tokens = ALL_HERE
    last_step: bool = False
    decisions: list[BranchDecision] = field(default_factory=list)
    _managers: dict[tuple[int, str], Managers] = field(default_factory=dict)

    def run(self, transformer: nn.Module, branches: Branches, /, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — see Acceleration
        """One forward, its middle blocks run or skipped."""
        names = each_branch(branches)
        managers = [self._managers_of(transformer, name) for name in names]

        def run(name: str, blocks: Sequence[nn.Module], call: BlockCall) -> None:
            self._run_list([caches[name] for caches in managers], blocks, call)

        joined = self.lists.joined
        spread = self.tokens.spread(run, self.lists, joined=joined)
        with in_place_of_blocks(
            transformer, self.lists, spread, branches=len(names), joined=joined
        ):
            output = transformer(*args, **inputs)
        self.decisions += map(_decision, names, managers)
        return output

    def save(self, components: Mapping[str, nn.Module], /) -> Tensors:
        """See Session: what was counted, on which warm-ups, masks and limits depend.

        What the library keeps of the blocks, and its forecasts, are its own and stay behind.
        """
        names = {id(component): name for name, component in components.items()}
        saved: dict[str, torch.Tensor] = {}
        for (transformer, branch), managers in self._managers.items():
            for place, manager in enumerate(managers.values()):
                context = manager.get_context()
                prefix = f"cache_dit.{names[transformer]}.{branch}.{place}."
                saved[prefix + "steps"] = torch.tensor(
                    [context.executed_steps, context.continuous_cached_steps, *context.cached_steps]
                )
                saved[prefix + "difference"] = torch.tensor(
                    context.accumulated_residual_diff, dtype=torch.float64
                )
        return saved

    def restore(self, components: Mapping[str, nn.Module], saved: Tensors, /) -> bool:
        """See Session; never whole."""
        for name, tensor in saved.items():
            kind, _, rest = name.partition(".")
            if kind != "cache_dit":
                continue
            component, branch, place, part = rest.split(".")
            managers = list(self._managers_of(components[component], branch).values())
            context = managers[int(place)].get_context()
            if part == "difference":
                context.accumulated_residual_diff = float(tensor)
            else:
                executed, continuous, *cached = tensor.tolist()
                context.executed_steps = context.transformer_executed_steps = executed
                context.continuous_cached_steps, context.cached_steps = continuous, cached
        return False

    def _managers_of(self, transformer: nn.Module, branch: str) -> Managers:
        key = (id(transformer), branch)
        if key not in self._managers:
            self._managers[key] = managers_for(
                self.cache, self.lists, self.steps[key[0]], self.tokens
            )
        return self._managers[key]

    def _run_list(
        self, managers: Sequence[Any], blocks: Sequence[nn.Module], call: BlockCall
    ) -> None:
        """DBCache: the first blocks decide, for each branch, whether those after them are run."""
        first, last = self.cache.fn_compute_blocks, len(blocks) - self.cache.bn_compute_blocks
        rows = range(call.branches)
        before = [call.states(row) for row in rows]
        call.run(blocks[:first], rows)
        between = [call.states(row) for row in rows]
        reused = [
            _reuses(managers[row], call.seen(between[row][0] - before[row][0], row)) for row in rows
        ]
        call.run(blocks[first:last], [row for row in rows if not reused[row]])
        for row in rows:
            if reused[row]:
                call.put([row], *_applied(managers[row], *between[row]))
            else:
                _keep(managers[row], between[row], call.states(row))
        call.run(blocks[last:], rows)


def _reuses(manager: Any, added: torch.Tensor) -> bool:  # noqa: ANN401 — the library's
    """Whether a branch goes on without its middle blocks, after what the first have added."""
    manager.mark_step_begin()
    # A context that is restored has counted steps, but keeps nothing of them; a mask alone would
    # have it reuse that.
    context = manager.get_context()
    if _keeps(context) and manager.can_cache(added, prefix=_FIRST):
        manager.add_cached_step()
        return True
    manager.set_Fn_buffer(added, prefix=_FIRST)
    return False


def _keeps(context: Any) -> bool:  # noqa: ANN401 — the library's
    return f"{_FIRST}_buffer" in context.buffers


def _applied(manager: Any, hidden: torch.Tensor, encoder: torch.Tensor | None) -> States:  # noqa: ANN401 — the library's
    """What the middle blocks would give, as far as the steps before tell."""
    applied: States = manager.apply_cache(hidden, encoder, prefix=_MIDDLE, encoder_prefix=_MIDDLE)
    return applied


def _keep(manager: Any, before: States, after: States) -> None:  # noqa: ANN401 — the library's
    """Remembers what the middle blocks added."""
    manager.set_Bn_buffer(after[0] - before[0], prefix=_MIDDLE)
    if before[1] is not None and after[1] is not None:
        manager.set_Bn_encoder_buffer(after[1] - before[1], prefix=_MIDDLE)


def _decision(branch: str, managers: Managers) -> BranchDecision:
    """Of the forward that was just made: reused is what all of its lists reused."""
    first, *_ = contexts = [manager.get_context() for manager in managers.values()]
    step = first.get_current_step()
    reused = all(step in context.get_cached_steps() for context in contexts)
    signal = first.get_residual_diffs().get(str(step))
    return BranchDecision(branch, reused, None if signal is None or signal < 0 else float(signal))
