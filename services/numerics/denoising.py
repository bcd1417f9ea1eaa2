"""One request inside the loop, and the guided step that all families take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import torch

from services.model_ports.forwards import (
    CONDITIONAL,
    IN_TURN,
    UNACCELERATED,
    UNCONDITIONAL,
    Acceleration,
    BranchRunner,
)
from services.model_ports.stages import Tensors
from services.numerics.schedules import Schedule
from triptych.domain.errors import InvalidRequest

Combine = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
"""One velocity from those of the guidance branches, by their names."""


@dataclass(slots=True)
class ScheduledState:
    """One request inside the loop.

    Attributes:
        latents: after the steps that are done; noise before the first.
        schedule: this request's own.
        branch_names: of the guidance branches that its steps have at most.
        acceleration: what this request's forwards go through.
        branches: what runs the guidance branches of its steps.
    """

    latents: torch.Tensor
    schedule: Schedule
    branch_names: tuple[str, ...]
    acceleration: Acceleration = field(kw_only=True, default=UNACCELERATED)
    branches: BranchRunner = field(kw_only=True, default=IN_TURN)

    @property
    def branch_count(self) -> int:
        """How many guidance branches its steps have at most."""
        return len(self.branch_names)

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

    def save(self) -> Tensors:
        """`latents`, and what the schedule saves."""
        return {"latents": self.latents, **self.schedule.save()}

    def restore(self, saved: Tensors) -> None:
        """Goes on from where a request of the same parameters and conditioning was saved.

        Everything else follows from those. In particular no noise is drawn after the first step.

        Args:
            saved: what `save` gave; copied.

        Raises:
            InvalidRequest: it is not of such a request.
        """
        own, latents = self.latents, saved.get("latents")
        if latents is None or (latents.shape, latents.dtype) != (own.shape, own.dtype):
            found, needed = _described(latents), _described(own)
            raise InvalidRequest.of(
                "checkpoint", f"its latents are {found}; this request's are {needed}"
            )
        self.schedule.restore(saved)
        self.latents = latents.to(own.device, copy=True)

    @property
    def sigma(self) -> float:
        """The noise level that the next step starts from; 0 after the last."""
        return self.schedule.sigma


def _described(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} in {tensor.dtype}"


@torch.no_grad()
def guided_step(
    state: ScheduledState,
    velocity: Callable[[str], torch.Tensor],
    combine: Combine,
    *,
    names: tuple[str, ...] | None = None,
    together: Callable[[tuple[str, ...]], Sequence[torch.Tensor]] | None = None,
) -> None:
    """Advances a request by one step, and returns when the device has done it.

    Args:
        state: the request.
        velocity: that of one guidance branch, from a forward of its own.
        combine: the family's rule.
        names: of the branches that this step has; None for all of the request's.
        together: the velocities of branches from one forward, in their order; None for a family
            whose branches are never rows of one.
    """
    names = state.branch_names if names is None else names
    if together is not None and (len(names) == 1 or state.branches.share_forwards):
        velocities = together(names)
    else:
        velocities = state.branches.run({name: partial(velocity, name) for name in names})
    combined = combine(dict(zip(names, velocities, strict=True)))
    state.latents = state.schedule.advance(combined, state.latents)


def classifier_free(guide: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Combine:
    """Guides the wanted branch by the unwanted one; without guidance there is the wanted one alone.

    Args:
        guide: one velocity from the wanted and the unwanted one.
    """

    def combine(velocities: Mapping[str, torch.Tensor]) -> torch.Tensor:
        wanted = velocities[CONDITIONAL]
        return guide(wanted, velocities[UNCONDITIONAL]) if len(velocities) > 1 else wanted

    return combine


def extrapolated(wanted: torch.Tensor, unwanted: torch.Tensor, scale: float) -> torch.Tensor:
    """From the unwanted velocity through the wanted one, so many times as far."""
    return unwanted + scale * (wanted - unwanted)
