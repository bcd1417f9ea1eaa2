import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from services.model_files.directory import ModelDirectory
from services.numerics.schedules import Schedule, Scheduler, load_flow_scheduler
from triptych.domain.errors import ConfigurationError, InvalidRequest, TriptychError

CPU = torch.device("cpu")


@pytest.fixture
def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def walk(schedule: Schedule, latents: torch.Tensor) -> torch.Tensor:
    while schedule.completed_steps < schedule.total_steps:
        latents = schedule.advance(latents.sin(), latents)
    return latents


def test_requests_of_one_scheduler_do_not_count_each_others_steps(
    scheduler: FlowMatchEulerDiscreteScheduler,
) -> None:
    noise = torch.linspace(-1, 1, 8)
    alone = walk(Schedule.shifted(scheduler, 3, CPU, tokens=64), noise)
    first = Schedule.shifted(scheduler, 3, CPU, tokens=64)
    second = Schedule.shifted(scheduler, 5, CPU, tokens=16)
    latents = first.advance(noise.sin(), noise)
    walk(second, noise)
    assert (first.completed_steps, second.completed_steps) == (1, 5)
    assert torch.equal(walk(first, latents), alone)


def test_more_tokens_keep_the_noise_longer(scheduler: FlowMatchEulerDiscreteScheduler) -> None:
    few, many = (Schedule.shifted(scheduler, 2, CPU, tokens=count) for count in (256, 4096))
    for schedule in (few, many):
        assert schedule.sigma == 1.0
        assert float(schedule.timestep) == 1000.0
        schedule.advance(torch.zeros(1), torch.zeros(1))
    # exp(mu) / (exp(mu) + 1), where mu goes from 0.5 at 256 tokens to 1.15 at 4096.
    assert few.sigma == pytest.approx(0.6225, abs=1e-4)
    assert many.sigma == pytest.approx(0.7595, abs=1e-4)


def test_after_the_last_step_no_noise_is_left(scheduler: FlowMatchEulerDiscreteScheduler) -> None:
    schedule = Schedule.shifted(scheduler, 1, CPU, tokens=16)
    walk(schedule, torch.zeros(1))
    assert (schedule.completed_steps, schedule.sigma) == (1, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_step_whose_latents_are_not_finite_is_an_error(
    scheduler: FlowMatchEulerDiscreteScheduler, value: float
) -> None:
    schedule = Schedule.shifted(scheduler, 20, CPU, tokens=16)
    latents = schedule.advance(torch.ones(4), torch.zeros(4))
    velocity = torch.tensor([1.0, value, 1.0, 1.0])
    says = r"latents hold NaN or infinity in torch\.float32 after step 2 of 20"
    with pytest.raises(TriptychError, match=says):
        schedule.advance(velocity, latents)


def test_a_scheduler_that_draws_noise_in_every_step_is_refused(tmp_path: Path) -> None:
    index = {"_class_name": "SomePipeline"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    folder = tmp_path / "scheduler"
    FlowMatchEulerDiscreteScheduler(stochastic_sampling=True).save_pretrained(folder)
    with pytest.raises(ConfigurationError, match="stochastic_sampling is true; a seed would not"):
        load_flow_scheduler(ModelDirectory(tmp_path))
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder)
    load_flow_scheduler(ModelDirectory(tmp_path))


@pytest.mark.parametrize(
    "solver",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=3
        ),
    ],
    ids=["first order", "second order", "third order"],
)
@pytest.mark.parametrize("saved_at", range(7))
def test_a_schedule_that_is_restored_goes_on_as_the_one_that_was_saved(
    solver: Scheduler, saved_at: int
) -> None:
    whole = Schedule(solver, 6, CPU)
    latents = torch.linspace(-1, 1, 16, dtype=torch.float32).reshape(1, 2, 2, 4)
    for _ in range(saved_at):
        latents = whole.advance(latents.sin(), latents)
    restored = Schedule(solver, 6, CPU)
    restored.restore({name: tensor.clone() for name, tensor in whole.save().items()})
    assert (restored.completed_steps, restored.sigma) == (saved_at, whole.sigma)
    assert torch.equal(walk(restored, latents), walk(whole, latents))
    # All that a scheduler keeps, whatever it is called.
    assert _kept(restored) == _kept(whole)


def _kept(schedule: Schedule) -> dict[str, object]:
    # Where it begins is all that may differ: the first step counts from there.
    return {
        name: value.tolist() if isinstance(value, torch.Tensor) else repr(value)
        for name, value in vars(schedule._scheduler).items()
        if name not in ("_begin_index", "_step_index")
    }


@pytest.mark.parametrize("completed", [None, torch.tensor([1, 2]), torch.tensor(4)])
def test_what_says_of_no_step_of_a_schedule_is_not_restored(
    scheduler: FlowMatchEulerDiscreteScheduler, completed: torch.Tensor | None
) -> None:
    schedule = Schedule.shifted(scheduler, 3, CPU, tokens=64)
    saved = {} if completed is None else {"completed_steps": completed}
    with pytest.raises(InvalidRequest, match="allowed are 0 to 3"):
        schedule.restore(saved)
