"""From noise to latents: which noise levels a request goes through."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_part
from services.numerics.solver_history import history_of, take_up_history
from services.torch_setup.runtime import wait_for
from triptych.domain.errors import ConfigurationError, InvalidRequest, TriptychError

# What schedulers raise for a configuration that they take without looking at it.
_UNUSABLE = (ValueError, TypeError, KeyError, IndexError, RuntimeError, AttributeError, ImportError)
# A solver that remembers earlier steps is other at their beginning and end than between.
_TRIED_STEPS = (2, 10)
_TRIED_VALUES = 8


class Scheduler(Protocol):
    """What the published schedulers of flow models have in common."""

    config: Any
    timesteps: torch.Tensor
    sigmas: torch.Tensor

    def set_begin_index(self, begin_index: int) -> None: ...

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, **_: object
    ) -> tuple[torch.Tensor]: ...


class Schedule:
    """The steps of one request. The scheduler is a copy, since it counts steps and remembers.

    Args:
        scheduler: as loaded; left as it is.
        steps: how many to take.
        device: where the latents are.
        options: further ones of the scheduler's `set_timesteps`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        steps: int,
        device: torch.device,
        **options: object,
    ) -> None:
        self._scheduler = copy.deepcopy(scheduler)
        self._device = device
        self._timesteps, _ = retrieve_timesteps(self._scheduler, steps, device, **options)
        self._scheduler.set_begin_index(0)
        # On the host, so that reading one never waits for the device; the last is where it ends.
        self._sigmas: list[float] = self._scheduler.sigmas.tolist()
        self.completed_steps = 0
        # Of the last step: where it started, its noise level and its velocity.
        self._last_step: tuple[torch.Tensor, float, torch.Tensor] | None = None

    @classmethod
    def shifted(
        cls,
        scheduler: FlowMatchEulerDiscreteScheduler,
        steps: int,
        device: torch.device,
        *,
        tokens: int,
    ) -> Self:
        """Even noise levels from 1 to 1 / steps, shifted by the number of latent tokens."""
        sigmas = np.linspace(1.0, 1 / steps, steps)
        return cls(scheduler, steps, device, sigmas=sigmas, mu=length_shift(scheduler, tokens))

    @property
    def total_steps(self) -> int:
        """Steps from noise to latents."""
        return len(self._timesteps)

    @property
    def sigma(self) -> float:
        """The noise level that the next step starts from; 0 after the last."""
        return self._sigmas[self.completed_steps]

    @property
    def timesteps(self) -> torch.Tensor:
        """All of the schedule's, on the device."""
        timesteps = self._timesteps
        assert isinstance(timesteps, torch.Tensor)
        return timesteps

    @property
    def timestep(self) -> torch.Tensor:
        """That noise level as the scheduler counts it, 1000 to 0; a scalar on the device."""
        timestep = self._timesteps[self.completed_steps]
        assert isinstance(timestep, torch.Tensor)
        return timestep

    @property
    def destination(self) -> torch.Tensor:
        """The latents at noise level 0 that the last step was heading for.

        In flow models a velocity leads straight there; this is what such schedulers themselves call
        the predicted sample, and after the last step the latents, bit for bit.
        """
        assert self._last_step is not None
        latents, sigma, velocity = self._last_step
        # A tensor, as schedulers have it: a bare number would be rounded otherwise in bfloat16.
        return (latents.float() - torch.tensor(sigma) * velocity).to(latents.dtype)

    def forget_step(self) -> None:
        """Lets go of what `destination` is made of, until the next step."""
        self._last_step = None

    def save(self) -> dict[str, torch.Tensor]:
        """What another schedule of the same request lacks to take the next step in its place."""
        completed = torch.tensor(self.completed_steps)
        return {"completed_steps": completed, **history_of(self._scheduler)}

    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Goes on where another schedule of the same request was saved; this one is at its begin.

        Args:
            saved: what `save` gave; copied.

        Raises:
            InvalidRequest: it does not say how many of the steps are done.
        """
        counted = saved.get("completed_steps")
        completed = -1 if counted is None or counted.numel() != 1 else int(counted)
        if not 0 <= completed <= self.total_steps:
            raise InvalidRequest.of(
                "checkpoint",
                f"its completed_steps are {counted}; allowed are 0 to {self.total_steps}",
            )
        take_up_history(self._scheduler, saved, self._device)
        self._scheduler.set_begin_index(completed)
        self.completed_steps = completed

    def advance(self, velocity: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The latents after one more step; returns when the device has computed them.

        Raises:
            TriptychError: they are not finite, and no further step could make them so.
        """
        (advanced,) = self._scheduler.step(velocity, self.timestep, latents, return_dict=False)
        assert isinstance(advanced, torch.Tensor)
        # Read once the step is done: it is not waited for by itself.
        finite = advanced.isfinite().all().to("cpu", non_blocking=True)
        # Progress, timing and cancellation are about steps that are done, not queued.
        wait_for(self._device)
        if not finite:
            raise TriptychError(
                f"the latents hold NaN or infinity in {advanced.dtype} after step"
                f" {self.completed_steps + 1} of {self.total_steps}; they would decode to a black"
                " picture"
            )
        self._last_step = (latents, self.sigma, velocity)
        self.completed_steps += 1
        return advanced


def length_shift(scheduler: FlowMatchEulerDiscreteScheduler, tokens: int) -> float:
    """How far to shift the noise levels of a picture of so many tokens, the scheduler's `mu`."""
    shift = calculate_shift(
        tokens,
        scheduler.config.get("base_image_seq_len", 256),
        scheduler.config.get("max_image_seq_len", 4096),
        scheduler.config.get("base_shift", 0.5),
        scheduler.config.get("max_shift", 1.15),
    )
    return float(shift)


def load_flow_scheduler(directory: ModelDirectory) -> FlowMatchEulerDiscreteScheduler:
    """Loads a scheduler whose noise is drawn once, before the first step.

    Raises:
        ConfigurationError: it cannot be loaded, draws noise in every step, or cannot draw.
    """
    directory.refuse("scheduler", "stochastic_sampling", "a seed would not decide the picture")
    directory.refuse("scheduler", "use_flow_sigmas", "this scheduler has no such noise levels")
    scheduler = load_part(FlowMatchEulerDiscreteScheduler, directory, "scheduler")
    check_schedule(directory, scheduler, mu=1.0)
    return scheduler


def check_schedule(directory: ModelDirectory, scheduler: Scheduler, **options: object) -> None:
    """Follows a schedule with a few numbers, so that none fails in the middle of a request.

    Args:
        directory: whose scheduler it is.
        scheduler: as loaded; left as it is.
        options: see Schedule.

    Raises:
        ConfigurationError: it raises, or ends in numbers that are not finite; naming the values of
            its configuration but for which it would not.
    """
    problem = _problem(scheduler, options)
    if problem is None:
        return
    kind: Any = type(scheduler)
    usual = {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
    }
    values = {name: value for name, value in scheduler.config.items() if name in usual}
    odd = {name: value for name, value in values.items() if value != usual[name]}
    decisive = {
        name: value
        for name, value in odd.items()
        if _problem(kind.from_config(values | {name: usual[name]}), options) is None
    }
    named = ", ".join(f"{name} is {value!r}" for name, value in (decisive or odd).items())
    file = directory.path / "scheduler" / "scheduler_config.json"
    raise ConfigurationError(f"{file}: {named}; with it nothing can be drawn: {problem}")


def _problem(scheduler: Scheduler, options: Mapping[str, object]) -> str | None:
    """What goes wrong along a schedule of a few steps and one of more, if anything does."""
    for steps in _TRIED_STEPS:
        latents = torch.linspace(-1, 1, _TRIED_VALUES).reshape(1, 1, 1, -1, 2)
        try:
            schedule = Schedule(scheduler, steps, latents.device, **options)
            for _ in range(steps):
                latents = schedule.advance(latents.sin(), latents)
        except TriptychError:
            return f"numbers are not finite after {schedule.completed_steps + 1} of {steps} steps"
        except _UNUSABLE as error:
            return " ".join(str(error).split())
    return None
