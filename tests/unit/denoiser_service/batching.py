"""A denoiser whose forwards can be made together, and whose numbers can be followed by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from services.model_ports.forwards import UNACCELERATED, Acceleration, Rows
from services.model_ports.stages import Tensors
from tests.unit.denoiser_service.fakes import CountingDenoiser, CountingState
from triptych.domain.generation import GenerationParameters


@dataclass
class RowState(CountingState):
    acceleration: Acceleration = field(default=UNACCELERATED)


class Adder(nn.Module):
    """Gives what is to be added.

    Attributes:
        batches: the values that came in each forward.
    """

    def __init__(self, before: Callable[[list[float]], None]) -> None:
        super().__init__()
        self.batches: list[list[float]] = []
        self._before = before

    def forward(self, values: torch.Tensor, *, increments: torch.Tensor) -> tuple[torch.Tensor]:
        coming = [float(each) for each in values[:, 0]]
        self._before(coming)
        self.batches.append(coming)
        return (increments,)


class BatchingDenoiser(CountingDenoiser):
    """As CountingDenoiser, by a transformer."""

    rows = Rows()

    def __init__(
        self,
        before_forward: Callable[[list[float]], None] = lambda values: None,
        after_forward: Callable[[CountingState], None] = lambda state: None,
        before_step: Callable[[CountingState], None] = lambda state: None,
    ) -> None:
        super().__init__(before_step)
        self.adder = Adder(before_forward)
        self._after_forward = after_forward
        self.components = {"transformer": self.adder}

    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> RowState:
        state = super().prepare(parameters, conditioning)
        start = torch.full_like(state.increment, float(parameters.seed))
        return RowState(start, state.increment, state.total_steps)

    def step(self, state: CountingState) -> None:
        assert isinstance(state, RowState)
        self._before_step(state)
        (increment,) = state.acceleration.run(
            self.adder, "cond", state.value, increments=state.increment
        )
        self._after_forward(state)
        state.value = state.value + increment
        state.completed_steps += 1
