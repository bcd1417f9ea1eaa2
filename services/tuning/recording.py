"""Records how much a transformer's signal and its blocks' output change from step to step."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from denoiser_service.rank.commands import Stepped
from services.model_ports.blocks import BlockLists
from services.model_ports.stages import CachingDenoiserModel
from services.tuning.painter import Painter
from services.tuning.polynomial import IDENTITY
from services.tuning.subjects import Subjects
from triptych.domain.acceleration import TeaCache
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.errors import ConfigurationError

# Every step is computed, and its event carries the signal that the rule looks at.
_WATCHED = TeaCache(rel_l1_thresh=0.0, coefficients=IDENTITY)
_TINY = 1e-8


@dataclass(slots=True)
class Recording:
    """Of all requests, for each transformer and guidance branch.

    Attributes:
        pairs: how much signal and output changed since the step before, relative L1 distances.
        trajectories: for each request the signal's changes, in the order of its steps; None for a
            step that has none before it.
    """

    pairs: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    trajectories: list[list[float | None]] = field(default_factory=list)


def record(painter: Painter, subjects: Subjects) -> Recording:
    """Draws every subject without reuse and watches.

    Raises:
        ConfigurationError: the model has no blocks to skip.
    """
    model = painter.denoiser.model
    if not isinstance(model, CachingDenoiserModel):
        raise ConfigurationError(f"{painter.denoiser.loaded.model.name} has no blocks to skip")
    recording = Recording()
    for number in range(len(subjects.prompts)):
        watcher = _Watcher(model.block_lists)
        painter.draw(
            subjects.parameters(number, _WATCHED),
            subjects.images,
            on_step=watcher.on_step,
            # Only then: some models run their blocks over the request before the first step.
            during_loop=watcher.watching(model.components),
        )
        for name, pairs in watcher.pairs.items():
            recording.pairs[name] += pairs
        recording.trajectories += watcher.trajectories.values()
    return recording


class _Watcher:
    """Watches one request; see Recording for its attributes."""

    def __init__(self, lists: BlockLists) -> None:
        self.pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.trajectories: dict[str, list[float | None]] = defaultdict(list)
        self._lists = lists
        self._given: list[tuple[str, torch.Tensor]] = []
        self._before: dict[str, torch.Tensor] = {}

    @contextmanager
    def watching(self, components: Mapping[str, torch.nn.Module]) -> Iterator[None]:
        """Keeps what the last block of each transformer gives."""
        with ExitStack() as hooks:
            for name, transformer in components.items():
                blocks = transformer.get_submodule(self._lists.names[-1])
                assert isinstance(blocks, torch.nn.ModuleList)

                def keep(_: object, __: object, output: Any, name: str = name) -> None:  # noqa: ANN401 — whatever a block gives
                    # A copy: what follows may work in place.
                    self._given.append((name, self._hidden(output).clone()))

                hooks.callback(blocks[-1].register_forward_hook(keep).remove)
            yield

    def on_step(self, stepped: Stepped) -> None:
        """Takes in what one step decided and gave."""
        for (name, output), decision in _matched(self._given, stepped.decisions):
            key = f"{name} {decision.branch}"
            before, signal = self._before.get(key), decision.signal
            self.trajectories[key].append(signal)
            if signal is not None and before is not None:
                self.pairs[key].append((signal, relative_distance(output, before)))
            self._before[key] = output
        self._given.clear()

    def _hidden(self, output: Any) -> torch.Tensor:  # noqa: ANN401 — whatever a block gives
        match self._lists.returns:
            case "hidden":
                hidden = output
            case "hidden, unread":
                hidden, _ = output
            case _:
                _, hidden = output
        assert isinstance(hidden, torch.Tensor)
        return hidden


def relative_distance(now: torch.Tensor, before: torch.Tensor) -> float:
    """Mean absolute change over mean absolute value, as TeaCache's rule measures its signal."""
    change = (now - before).abs().float().mean()
    return float(change / (before.abs().float().mean() + _TINY))


def _matched(
    given: Sequence[tuple[str, torch.Tensor]], decisions: Sequence[BranchDecision]
) -> Iterator[tuple[tuple[str, torch.Tensor], BranchDecision]]:
    """Outputs with the decisions they belong to; a forward over several branches has a row each."""
    if len(given) != len(decisions):
        given = [(name, row) for name, output in given for row in output]
    return zip(given, decisions, strict=True)
