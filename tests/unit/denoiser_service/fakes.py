"""A denoiser whose numbers can be followed by hand, and what goes with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch

from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import DenoiserModel, Tensors
from tests.unit.model_ports.fake_model import LOADED
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import LoadedModel

TENANT = "someone"
ONE = "1" * 32
TWO = "2" * 32


@dataclass
class CountingState:
    value: torch.Tensor
    increment: torch.Tensor
    total_steps: int
    completed_steps: int = 0

    @property
    def sigma(self) -> float:
        return 1 - self.completed_steps / self.total_steps

    def foreseen(self) -> Self:
        """With all the steps that are left."""
        left = self.total_steps - self.completed_steps
        return replace(self, value=self.value + left * self.increment)

    def forget_step(self) -> None:
        pass

    def save(self) -> Tensors:
        return {"latents": self.value, "completed_steps": torch.tensor(self.completed_steps)}

    def restore(self, saved: Tensors) -> None:
        self.value = saved["latents"].clone()
        self.completed_steps = int(saved["completed_steps"])


class CountingDenoiser:
    """Starts at the seed and adds the conditioning at every step.

    Attributes:
        conditioned: on what each request was prepared, by name, as numbers.
    """

    def __init__(self, before_step: Callable[[CountingState], None] = lambda state: None) -> None:
        self._before_step = before_step
        self.components: Mapping[str, torch.nn.Module] = {}
        self.conditioned: list[dict[str, object]] = []

    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> CountingState:
        self.conditioned.append({name: each.tolist() for name, each in conditioning.items()})
        start = torch.full((1, 2), float(parameters.seed))
        return CountingState(start, conditioning["increment"].clone(), parameters.steps)

    def step(self, state: CountingState) -> None:
        self._before_step(state)
        state.value = state.value + state.increment
        state.completed_steps += 1

    def finish(self, state: CountingState) -> Tensors:
        return {"latents": state.value}


def loaded(denoiser: CountingDenoiser, model: LoadedModel = LOADED) -> StageModel[DenoiserModel]:
    return StageModel(model, denoiser)  # type: ignore[arg-type]
