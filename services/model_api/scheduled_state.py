"""What the states of all families that follow a schedule have."""

from dataclasses import dataclass

import torch

from services.model_api.schedules import Schedule


@dataclass(slots=True)
class ScheduledState:
    """One request inside the loop.

    Attributes:
        latents: after the steps that are done; noise before the first.
        schedule: this request's own.
    """

    latents: torch.Tensor
    schedule: Schedule

    @property
    def total_steps(self) -> int:
        """Steps from noise to latents."""
        return self.schedule.total_steps

    @property
    def completed_steps(self) -> int:
        """Steps that are done."""
        return self.schedule.completed_steps

    @property
    def sigma(self) -> float:
        """The noise level that the next step starts from; 0 after the last."""
        return self.schedule.sigma
