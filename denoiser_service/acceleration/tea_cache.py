"""TeaCache: reuse what all blocks added, while the first block's input changes little.

Liu et al., "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model" (2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from denoiser_service.acceleration.blocks import (
    BlockCall,
    BlockStack,
    blocks_of,
    in_place_of,
    run_all,
)
from services.domain.acceleration import TeaCache
from services.domain.stages import BranchDecision
from services.model_api.acceleration import BlockLists

_TINY = 1e-8


@dataclass(slots=True)
class TeaCacheRule:
    """Decides for one branch of one request, step by step. The published rule.

    Args:
        threshold: accumulated distance at which a step is computed.
        coefficients: of the polynomial that rescales a distance, highest power first.
    """

    threshold: float
    coefficients: Sequence[float]
    accumulated: float = 0.0

    def reuses(self, distance: float | None, *, must_compute: bool) -> bool:
        """Whether a step is reused.

        Args:
            distance: relative L1 distance to the step before, computed or not; None for the first.
            must_compute: whatever the distance.
        """
        if distance is None or must_compute:
            self.accumulated = 0.0
            return False
        self.accumulated += abs(float(np.polyval(self.coefficients, distance)))
        if self.accumulated < self.threshold:
            return True
        self.accumulated = 0.0
        return False


@dataclass(slots=True)
class _Branch:
    """What one branch of one request keeps between steps, of one transformer.

    Attributes:
        signal: of the step before.
        residual: what all blocks added in the last step that was computed.
        entered: hidden states before the first block, while a step is being computed.
        decision: of the forward under way.
    """

    rule: TeaCacheRule
    signal: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    entered: torch.Tensor | None = None
    decision: tuple[bool, float | None] = (False, None)


@dataclass(slots=True)
class TeaCacheSession:
    """One request's TeaCache; see services.model_api.acceleration.Acceleration.

    Attributes:
        last_step: set before the forwards of a step: whether it is the request's last.
        decisions: of the step under way.
    """

    cache: TeaCache
    lists: BlockLists
    last_step: bool = False
    decisions: list[BranchDecision] = field(default_factory=list)
    _branches: dict[tuple[int, str], _Branch] = field(default_factory=dict)

    def run(self, transformer: nn.Module, branch: str, /, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — see Acceleration
        """One forward, its blocks run or skipped."""
        state = self._branch(transformer, branch)
        first, last = self.lists.names[0], self.lists.names[-1]
        stacks = {}
        for name in self.lists.names:

            def run(
                blocks: nn.ModuleList,
                call: BlockCall,
                *,
                begins: bool = name == first,
                ends: bool = name == last,
            ) -> Any:  # noqa: ANN401 — whatever a block gives
                return self._run_list(state, blocks, call, begins=begins, ends=ends)

            stacks[name] = BlockStack(blocks_of(transformer, name), self.lists, run)
        with in_place_of(transformer, stacks):
            output = transformer(*args, **inputs)
        reused, signal = state.decision
        self.decisions.append(BranchDecision(branch, reused, signal))
        return output

    def _branch(self, transformer: nn.Module, branch: str) -> _Branch:
        key = (id(transformer), branch)
        if key not in self._branches:
            assert self.cache.coefficients is not None
            rule = TeaCacheRule(self.cache.rel_l1_thresh, self.cache.coefficients)
            self._branches[key] = _Branch(rule)
        return self._branches[key]

    def _run_list(
        self, state: _Branch, blocks: nn.ModuleList, call: BlockCall, *, begins: bool, ends: bool
    ) -> Any:  # noqa: ANN401 — whatever a block gives
        if begins:
            self._decide(state, self.lists.signal(blocks[0], call.arguments))
        reused, _ = state.decision
        if begins and not reused:
            state.entered = call.hidden
        if reused:
            assert state.residual is not None
            return call.output(call.hidden + state.residual if ends else call.hidden)
        output = run_all(blocks, call)
        if ends:
            assert state.entered is not None
            state.residual = call.hidden - state.entered
            state.entered = None
        return output

    def _decide(self, state: _Branch, signal: torch.Tensor) -> None:
        distance = None
        # Another shape is another sequence: nothing of it was seen before.
        if state.signal is not None and state.signal.shape == signal.shape:
            change = (signal - state.signal).abs().float().mean()
            distance = float(change / (state.signal.abs().float().mean() + _TINY))
        must_compute = self.last_step and self.cache.compute_last_step
        state.decision = (state.rule.reuses(distance, must_compute=must_compute), distance)
        state.signal = signal
