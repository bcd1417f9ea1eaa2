from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import nn

from denoiser_service.rank.held_bytes import held_bytes


@dataclass(slots=True)
class State:
    latents: torch.Tensor
    kept: dict[str, list[torch.Tensor | None]] = field(default_factory=dict)
    model: nn.Module | None = None


def test_tensors_are_found_wherever_they_are() -> None:
    state = State(torch.zeros(2, 3), {"a": [None, torch.zeros(4, dtype=torch.float64)]})
    scheduler = SimpleNamespace(history=(torch.zeros(5), "text", 1.5), again=state)
    assert held_bytes(state) == 24 + 32
    assert held_bytes(scheduler) == 24 + 32 + 20
    assert held_bytes(state, scheduler) == 24 + 32 + 20
    assert held_bytes(None) == 0


def test_shared_memory_counts_once_and_a_view_keeps_all_of_it() -> None:
    whole = torch.zeros(100)
    assert held_bytes(State(whole[:1], {"views": [whole[1:2], whole.view(10, 10)]})) == 400


def test_the_model_is_not_the_requests() -> None:
    assert held_bytes(State(torch.zeros(1), model=nn.Linear(8, 8))) == 4


def test_what_goes_round_in_circles_ends() -> None:
    circle = SimpleNamespace(tensor=torch.zeros(1), others=deque([torch.zeros(2)]))
    circle.itself = [circle]
    assert held_bytes(circle) == 12
