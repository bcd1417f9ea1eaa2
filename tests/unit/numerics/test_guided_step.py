"""The step of all families: velocities of branches are combined, and the latents moved along."""

from collections.abc import Callable, Mapping
from typing import cast

import pytest
import torch

from services.model_ports.forwards import CONDITIONAL, UNCONDITIONAL
from services.numerics.denoising import (
    ScheduledState,
    classifier_free,
    extrapolated,
    guided_step,
)
from services.numerics.schedules import Schedule

VELOCITIES = {CONDITIONAL: torch.tensor([3.0]), UNCONDITIONAL: torch.tensor([1.0])}


class Straight:
    """A schedule that adds the velocity."""

    def advance(self, velocity: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return latents + velocity


class OnRanks:
    """Runs branches apart, and notes which."""

    share_forwards = False

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, branches: Mapping[str, Callable[[], torch.Tensor]], /) -> list[torch.Tensor]:
        self.ran += branches
        return [velocity() for velocity in branches.values()]


def state(*names: str) -> ScheduledState:
    return ScheduledState(torch.zeros(1), cast("Schedule", Straight()), names)


def twice(wanted: torch.Tensor, unwanted: torch.Tensor) -> torch.Tensor:
    return extrapolated(wanted, unwanted, 2.0)


def test_the_wanted_branch_is_guided_away_from_the_unwanted_one() -> None:
    both = state(CONDITIONAL, UNCONDITIONAL)
    guided_step(both, VELOCITIES.__getitem__, classifier_free(twice))
    assert both.latents.item() == 1 + 2 * (3 - 1)
    assert both.branch_count == 2


def test_without_guidance_the_wanted_velocity_is_followed_as_it_is() -> None:
    alone = state(CONDITIONAL)
    guided_step(alone, VELOCITIES.__getitem__, classifier_free(twice))
    assert alone.latents.item() == 3


def test_a_step_may_have_fewer_branches_than_its_request() -> None:
    both = state(CONDITIONAL, UNCONDITIONAL)
    both.branches = runner = OnRanks()
    guided_step(both, VELOCITIES.__getitem__, classifier_free(twice), names=(CONDITIONAL,))
    assert (both.latents.item(), runner.ran) == (3, [CONDITIONAL])


@pytest.mark.parametrize("order", [(CONDITIONAL, UNCONDITIONAL), (UNCONDITIONAL, CONDITIONAL)])
def test_branches_share_a_forward_unless_ranks_run_them_apart(order: tuple[str, ...]) -> None:
    forwards: list[tuple[str, ...]] = []

    def together(names: tuple[str, ...]) -> list[torch.Tensor]:
        forwards.append(names)
        return [VELOCITIES[name] for name in names]

    def alone(name: str) -> torch.Tensor:
        return together((name,))[0]

    joined, apart = state(*order), state(*order)
    apart.branches = runner = OnRanks()
    for each in (joined, apart):
        guided_step(each, alone, classifier_free(twice), together=together)
    assert forwards == [order, (order[0],), (order[1],)]
    assert runner.ran == [*order]
    assert torch.equal(joined.latents, apart.latents)
