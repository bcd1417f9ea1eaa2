"""What the states of all families that follow a schedule have."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from services.model_ports.forwards import IN_TURN, UNACCELERATED, Acceleration, BranchRunner
from services.numerics.schedules import Schedule


@dataclass(slots=True)
class ScheduledState:
    """One request inside the loop.

    Attributes:
        latents: after the steps that are done; noise before the first.
        schedule: this request's own.
        acceleration: what this request's forwards go through.
        branches: what runs the guidance branches of its steps.
    """

    latents: torch.Tensor
    schedule: Schedule
    acceleration: Acceleration = field(kw_only=True, default=UNACCELERATED)
    branches: BranchRunner = field(kw_only=True, default=IN_TURN)

    @property
    def branch_count(self) -> int:
        """How many guidance branches its steps have at most."""
        return 1

    @property
    def steps_by_component(self) -> Mapping[str, int]:
        """How many of the request's steps each transformer takes."""
        return {"transformer": self.schedule.total_steps}

    @property
    def total_steps(self) -> int:
        """Steps from noise to latents."""
        return self.schedule.total_steps

    @property
    def completed_steps(self) -> int:
        """Steps that are done."""
        return self.schedule.completed_steps

    def foreseen(self) -> Self:
        """The same request, but with the latents that its last step was heading for."""
        return replace(self, latents=self.schedule.destination)

    def forget_step(self) -> None:
        """Lets go of what `foreseen` needs of the last step, until the next one."""
        self.schedule.forget_step()

    @property
    def sigma(self) -> float:
        """The noise level that the next step starts from; 0 after the last."""
        return self.schedule.sigma
