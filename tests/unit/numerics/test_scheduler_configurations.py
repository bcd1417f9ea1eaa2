"""Every value that schedulers take in their configuration: drawn as stock does, or refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.flux.pipeline_flux import retrieve_timesteps

from services.model_files.directory import ModelDirectory
from services.numerics.schedules import Schedule, check_schedule, load_flow_scheduler
from tests.checkpoints.schedulers import flux_scheduler
from tests.checkpoints.wan import scheduler as wan_scheduler
from triptych.domain.errors import ConfigurationError

# Schedulers divide by zero for some of these, and hand their tensors to numpy.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CPU = torch.device("cpu")
STEPS = (2, 3, 7)
# Values that are not the classes' own, of every field.
UNIPC: tuple[dict[str, Any], ...] = (
    {"num_train_timesteps": 500},
    {"beta_start": 0.001},
    {"beta_end": 0.03},
    {"beta_schedule": "scaled_linear"},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": [0.1] * 1000},
    {"solver_order": 1},
    {"solver_order": 1, "lower_order_final": False},
    {"solver_order": 3},
    {"solver_order": 4},
    {"prediction_type": "epsilon"},
    {"prediction_type": "sample"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "other"},
    {"thresholding": True},
    {"thresholding": True, "dynamic_thresholding_ratio": 0.5, "sample_max_value": 2.0},
    {"predict_x0": False},
    {"predict_x0": False, "prediction_type": "epsilon"},
    {"solver_type": "bh1"},
    {"solver_type": "midpoint"},
    {"lower_order_final": False},
    {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
    {"disable_corrector": [0, 1]},
    {"use_karras_sigmas": True},
    {"use_karras_sigmas": True, "sigma_min": 0.03, "sigma_max": 0.9},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_flow_sigmas": False},
    {"use_flow_sigmas": False, "prediction_type": "v_prediction"},
    {"flow_shift": 1.0},
    {"flow_shift": 12.0},
    {"flow_shift": 0.0},
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "trailing", "use_flow_sigmas": False},
    {"steps_offset": 1},
    {"final_sigmas_type": "sigma_min"},
    {"final_sigmas_type": "other"},
    {"rescale_betas_zero_snr": True},
    {"use_dynamic_shifting": True},
    {"shift_terminal": 0.02},
)
FLOW: tuple[dict[str, Any], ...] = (
    {"num_train_timesteps": 500},
    {"shift": 1.0},
    {"shift": 0.0},
    {"use_dynamic_shifting": False},
    {"use_dynamic_shifting": False, "shift": 7.0},
    {"base_shift": 0.1, "max_shift": 2.0},
    {"base_image_seq_len": 16, "max_image_seq_len": 64},
    {"invert_sigmas": True},
    {"shift_terminal": 0.02},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"time_shift_type": "linear"},
)


def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return torch.sin(3 * latents) + latents * timestep / 1000


def noise() -> torch.Tensor:
    return torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def drawn_by_stock(scheduler: Any, steps: int, **options: object) -> torch.Tensor:
    scheduler = copy.deepcopy(scheduler)
    timesteps, _ = retrieve_timesteps(scheduler, steps, CPU, **options)
    latents = noise()
    for timestep in timesteps:
        (latents,) = scheduler.step(
            velocity(latents, timestep), timestep, latents, return_dict=False
        )
    return latents


def drawn_by_ours(scheduler: Any, steps: int, **options: object) -> torch.Tensor:
    schedule = Schedule(scheduler, steps, CPU, **options)
    latents = noise()
    for _ in range(steps):
        latents = schedule.advance(velocity(latents, schedule.timestep), latents)
    return latents


def directory_of(scheduler: Any, folder: Path) -> ModelDirectory:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "APipeline"}))
    scheduler.save_pretrained(folder / "scheduler")
    return ModelDirectory(folder)


def alike_or_refused(scheduler: Any, folder: Path, asked: dict[str, Any], **options: Any) -> None:
    """Whether stock draws decides which."""
    directory = directory_of(scheduler, folder)
    try:
        stock = [drawn_by_stock(scheduler, steps, **options) for steps in STEPS]
    except (ValueError, RuntimeError):
        stock = []
    if not stock or not all(latents.isfinite().all() for latents in stock):
        with pytest.raises(ConfigurationError, match="nothing can be drawn") as refused:
            check_schedule(directory, scheduler, **options)
        assert any(name in str(refused.value) for name in asked), refused.value
        return
    check_schedule(directory, scheduler, **options)
    ours = [drawn_by_ours(scheduler, steps, **options) for steps in STEPS]
    assert all(torch.equal(one, other) for one, other in zip(stock, ours, strict=True))


@pytest.mark.parametrize("asked", UNIPC, ids=str)
def test_a_solver_draws_what_stock_draws_or_is_refused_by_its_field(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    scheduler = UniPCMultistepScheduler.from_config({**wan_scheduler().config, **asked})
    alike_or_refused(scheduler, tmp_path, asked)


@pytest.mark.parametrize("asked", FLOW, ids=str)
def test_a_flow_schedule_draws_what_stock_draws_or_is_refused_by_its_field(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config({**flux_scheduler().config, **asked})
    alike_or_refused(scheduler, tmp_path, asked, mu=0.7)


def test_every_field_of_both_schedulers_is_tried() -> None:
    # That one is refused for itself, and these two choose what the others do.
    elsewhere = {"stochastic_sampling", "solver_p", "time_shift_type"}
    for kind, tried in ((UniPCMultistepScheduler, UNIPC), (FlowMatchEulerDiscreteScheduler, FLOW)):
        fields = {name for name in kind().config if not name.startswith("_")}
        assert fields - {name for asked in tried for name in asked} <= elsewhere


@pytest.mark.parametrize("option", ["stochastic_sampling", "use_flow_sigmas"])
def test_what_no_loop_does_is_refused_by_its_field(option: str, tmp_path: Path) -> None:
    directory = directory_of(flux_scheduler(), tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {option: True}))
    with pytest.raises(ConfigurationError, match=option):
        load_flow_scheduler(directory)
