"""What a solver remembers of the steps it has taken, to be taken up by another of its kind."""

from collections.abc import Mapping
from typing import Any, Final

import torch

# By the schedulers' own names. Solvers of the first order have none of them.
_LISTS: Final = ("model_outputs", "timestep_list")
_TENSORS: Final = ("last_sample",)
_COUNTS: Final = ("lower_order_nums", "this_order")


def history_of(solver: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 — published without types
    """All that a scheduler remembers; no copies, but no later step changes them.

    Args:
        solver: a published scheduler, after any number of steps.
    """
    remembered = {
        f"solver.{name}.{place}": entry
        for name in _LISTS
        for place, entry in enumerate(getattr(solver, name, ()))
    }
    remembered |= {f"solver.{name}": getattr(solver, name, None) for name in _TENSORS}
    counts = {f"solver.{name}": getattr(solver, name, None) for name in _COUNTS}
    return {
        **{name: tensor for name, tensor in remembered.items() if tensor is not None},
        **{name: torch.tensor(count) for name, count in counts.items() if count is not None},
    }


def take_up_history(
    solver: Any,  # noqa: ANN401 — published without types
    history: Mapping[str, torch.Tensor],
    device: torch.device,
) -> None:
    """Has a scheduler remember what another one did.

    Args:
        solver: at its beginning.
        history: what `history_of` gave, maybe with others under further names; copied.
        device: where the latents are.
    """
    for name in _LISTS:
        entries = getattr(solver, name, [])
        for place in range(len(entries)):
            entries[place] = _copied(history.get(f"solver.{name}.{place}"), device)
    for name in _TENSORS:
        if (tensor := _copied(history.get(f"solver.{name}"), device)) is not None:
            setattr(solver, name, tensor)
    for name in _COUNTS:
        if (count := history.get(f"solver.{name}")) is not None:
            setattr(solver, name, int(count))


def _copied(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device, copy=True)
