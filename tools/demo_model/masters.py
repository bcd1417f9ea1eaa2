"""Mixed-precision training state: fp32 masters, their average and AdamW, as flat tensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a phase whose progress runs from 0 to 1."""

    peak: float
    warmup_steps: int = 100
    hold: float = 0.35
    floor: float = 0.01

    def rate(self, step: int, progress: float) -> float:
        """Linear warm-up by steps, then flat, then a cosine down to `floor` of the peak."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        late = min(1.0, max(0.0, (progress - self.hold) / (1.0 - self.hold)))
        cosine = 0.5 * (1.0 + math.cos(math.pi * late))
        return self.peak * warmup * (self.floor + (1.0 - self.floor) * cosine)


class Masters:
    """Owns the parameters of a phase: the modules compute in bf16, the optimizer in fp32.

    All parameters, and all gradients, are views of one flat tensor each, so that a step is a
    handful of long operations instead of thousands of short ones.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        average_decay: float,
        weight_decay: float,
        clip: float = 1.0,
    ) -> None:
        self._parameters = list(parameters)
        self._clip = clip
        self._average_decay = average_decay
        device = self._parameters[0].device
        flat = torch.cat([parameter.detach().float().flatten() for parameter in self._parameters])
        self._master = nn.Parameter(flat)
        self._average = flat.clone()
        self._working = torch.zeros_like(flat, dtype=torch.bfloat16)
        # One value more than there are weights: room for the clock that ranks agree upon.
        self._exchange = torch.zeros(flat.numel() + 1, device=device)
        self._gradients = torch.zeros_like(self._working)
        self._optimizer = torch.optim.AdamW(
            [self._master], lr=0.0, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True
        )
        self._attach()

    def _attach(self) -> None:
        """Makes every parameter, and its gradient, a view of the flat tensors."""
        start = 0
        for parameter in self._parameters:
            end = start + parameter.numel()
            parameter.data = self._working[start:end].view(parameter.shape)
            parameter.grad = self._gradients[start:end].view(parameter.shape)
            start = end
        self._refresh()

    def _refresh(self) -> None:
        with torch.no_grad():
            self._working.copy_(self._master)

    def step(self, rate: float, clock: float) -> float:
        """Applies the gradients that backward passes have left, averaged over all ranks.

        Args:
            rate: The learning rate.
            clock: This rank's idea of the phase's progress.

        Returns:
            The progress on which all ranks agree: that of rank 0.
        """
        exchange = self._exchange
        exchange[:-1].copy_(self._gradients)
        exchange[-1] = 0.0
        if torch.distributed.is_initialized():
            if torch.distributed.get_rank() == 0:
                exchange[-1] = clock
            torch.distributed.all_reduce(exchange)
            exchange[:-1].div_(torch.distributed.get_world_size())
        else:
            exchange[-1] = clock
        gradient = exchange[:-1]
        norm = float(gradient.norm())
        gradient.mul_(min(1.0, self._clip / (norm + 1e-6)))
        self._master.grad = gradient
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        steps = float(self._optimizer.state[self._master]["step"])
        # A short memory at first, or the average would long remember the first weights.
        decay = min(self._average_decay, steps / (steps + 9.0))
        with torch.no_grad():
            self._average.lerp_(self._master, 1.0 - decay)
        self._refresh()
        self._gradients.zero_()
        return float(exchange[-1])

    def save(self, path: Path, notes: dict[str, str]) -> None:
        """Writes the whole state, so that `load` continues as if nothing had happened."""
        state = self._optimizer.state[self._master]
        tensors = {
            "master": self._master.detach(),
            "average": self._average,
            "moment": state["exp_avg"],
            "square": state["exp_avg_sq"],
            "step": state["step"],
        }
        partial = path.with_suffix(".partial")
        save_file({name: value.cpu() for name, value in tensors.items()}, partial, notes)
        partial.replace(path)

    def load(self, path: Path) -> dict[str, str]:
        """Takes the state up again that `save` wrote.

        Returns:
            The notes saved with it.
        """
        device = self._average.device
        with safe_open(path, "pt", device=str(device)) as stored, torch.no_grad():
            self._master.copy_(stored.get_tensor("master"))
            self._average.copy_(stored.get_tensor("average"))
            self._optimizer.state[self._master] = {
                "step": stored.get_tensor("step"),
                "exp_avg": stored.get_tensor("moment"),
                "exp_avg_sq": stored.get_tensor("square"),
            }
            notes: dict[str, str] = stored.metadata()
        self._refresh()
        return notes

    def use_average(self) -> None:
        """Leaves the averaged weights, in fp32, in the modules; training ends with this."""
        start = 0
        for parameter in self._parameters:
            end = start + parameter.numel()
            parameter.grad = None
            parameter.data = self._average[start:end].view(parameter.shape).clone()
            start = end
