"""TeaCache: reuse what all blocks added, while the first block's input changes little.

Liu et al., "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model" (2024).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from denoiser_service.rank.acceleration.blocks import (
    ALL_HERE,
    BlockCall,
    Tokens,
    in_place_of_blocks,
)
from services.model_ports.blocks import BlockLists
from services.model_ports.forwards import Branches, each_branch
from services.model_ports.stages import Tensors
from triptych.domain.acceleration import TeaCache
from triptych.domain.cache_statistics import BranchDecision

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
    """One request's TeaCache; see services.model_ports.forwards.Acceleration.

    Attributes:
        last_step: set before the forwards of a step: whether it is the request's last.
        decisions: of the step under way.
        tokens: where those of its forwards are.
    """

    cache: TeaCache
    lists: BlockLists
    tokens: Tokens = ALL_HERE
    last_step: bool = False
    decisions: list[BranchDecision] = field(default_factory=list)
    _branches: dict[tuple[int, str], _Branch] = field(default_factory=dict)

    def run(self, transformer: nn.Module, branches: Branches, /, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — see Acceleration
        """One forward, its blocks run or skipped."""
        names = each_branch(branches)
        states = [self._state(transformer, name) for name in names]

        def run(name: str, blocks: Sequence[nn.Module], call: BlockCall) -> None:
            if name == self.lists.names[0]:
                self._begin(states, blocks[0], call)
            call.run(blocks, [row for row, state in enumerate(states) if not state.decision[0]])
            if name == self.lists.names[-1]:
                _end(states, call)

        spread = self.tokens.spread(run, self.lists)
        with in_place_of_blocks(transformer, self.lists, spread, branches=len(names)):
            output = transformer(*args, **inputs)
        self.decisions += [
            BranchDecision(name, *state.decision) for name, state in zip(names, states, strict=True)
        ]
        return output

    def save(self, components: Mapping[str, nn.Module], /) -> Tensors:
        """See Session: all that decides and all that is reused."""
        names = {id(component): name for name, component in components.items()}
        saved: dict[str, torch.Tensor] = {}
        for (transformer, branch), state in self._branches.items():
            prefix = f"tea_cache.{names[transformer]}.{branch}."
            # In double precision, as Python counts.
            accumulated = torch.tensor(state.rule.accumulated, dtype=torch.float64)
            saved[prefix + "accumulated"] = accumulated
            for name, tensor in (("signal", state.signal), ("residual", state.residual)):
                if tensor is not None:
                    saved[prefix + name] = tensor
        return saved

    def restore(self, components: Mapping[str, nn.Module], saved: Tensors, /) -> bool:
        """See Session."""
        for name, tensor in saved.items():
            kind, _, rest = name.partition(".")
            if kind != "tea_cache":
                continue
            component, branch, part = rest.split(".")
            transformer = components[component]
            state = self._state(transformer, branch)
            if part == "accumulated":
                state.rule.accumulated = float(tensor)
            else:
                copied = tensor.to(next(transformer.parameters()).device, copy=True)
                setattr(state, part, copied)
        return bool(self._branches)

    def _state(self, transformer: nn.Module, branch: str) -> _Branch:
        key = (id(transformer), branch)
        if key not in self._branches:
            assert self.cache.coefficients is not None
            rule = TeaCacheRule(self.cache.rel_l1_thresh, self.cache.coefficients)
            self._branches[key] = _Branch(rule)
        return self._branches[key]

    def _begin(self, states: Sequence[_Branch], first: nn.Module, call: BlockCall) -> None:
        signal = self.lists.signal(first, call.arguments)
        for row, state in enumerate(states):
            self._decide(state, call.seen(call.own(signal, row), row))
            reused, _ = state.decision
            state.entered = None if reused else call.own(call.hidden, row)

    def _decide(self, state: _Branch, signal: torch.Tensor) -> None:
        distance = None
        # Another shape is another sequence: nothing of it was seen before.
        if state.signal is not None and state.signal.shape == signal.shape:
            change, before = self.tokens.means((signal - state.signal).abs(), state.signal.abs())
            distance = float(change / (before + _TINY))
        must_compute = self.last_step and self.cache.compute_last_step
        state.decision = (state.rule.reuses(distance, must_compute=must_compute), distance)
        state.signal = signal


def _end(states: Sequence[_Branch], call: BlockCall) -> None:
    """Keeps what all blocks added to the branches that were computed, and adds it to the others."""
    for row, state in enumerate(states):
        hidden, encoder = call.states(row)
        reused, _ = state.decision
        if reused:
            assert state.residual is not None
            call.put([row], hidden + state.residual, encoder)
        else:
            assert state.entered is not None
            state.residual = hidden - state.entered
        state.entered = None
