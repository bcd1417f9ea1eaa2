"""The published pipelines take the checkpoints for what they say they are, and draw with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from tests.checkpoints import MODELS, checkpoint
from tests.checkpoints.directory import draw_weights
from tests.checkpoints.stock import stock_pipeline

pytestmark = pytest.mark.slow

PROMPT = "a red circle on a {blue} background, 漢字 ☂"
# Below this mean difference of pixels between 0 and 1, eight-bit pictures could be the same.
VISIBLE = 1 / 255
COMPONENTS = {
    "flux.1-dev": ["text_encoder", "text_encoder_2", "transformer", "vae"],
    "stable-diffusion-3.5-medium": [
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "transformer",
        "vae",
    ],
    "wan2.2-t2v-a14b": ["text_encoder", "transformer", "transformer_2", "vae"],
}
# They take pictures and much longer; see test_edit_pipelines.py.
EDIT_MODELS = {
    "qwen-image-edit",
    "qwen-image-edit-2509",
    "qwen-image-layered",
    "longcat-image-edit",
}
# diffusers has no pipeline for it.
FOREIGN_MODELS = {"bagel-7b-mot"}
USUAL_COMPONENTS = ["text_encoder", "transformer", "vae"]
GUIDANCE = {"qwen-image": "true_cfg_scale", "qwen-image-2512": "true_cfg_scale"}
ARGUMENTS: Mapping[str, Mapping[str, object]] = {
    "longcat-image": {"enable_prompt_rewrite": False},
    "wan2.2-t2v-a14b": {"num_frames": 5, "guidance_scale_2": 3.0},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    # Sums are split among threads, so their number decides the last bits.
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=sorted(MODELS.keys() - EDIT_MODELS - FOREIGN_MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def directory(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(name, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def pipeline(directory: Path) -> DiffusionPipeline:
    return stock_pipeline(directory)


@pytest.fixture(scope="module")
def usual(name: str, pipeline: DiffusionPipeline) -> np.ndarray:
    return draw(name, pipeline)


def draw(
    name: str, pipeline: DiffusionPipeline, *, seed: int = 7, guidance: float = 4.0, **changes: Any
) -> np.ndarray:
    """Pixels between 0 and 1, of shape [1, 64, 64, 3], or [1, 5, 64, 64, 3] of a video."""
    arguments: dict[str, Any] = {
        "prompt": PROMPT,
        "width": 64,
        "height": 64,
        "num_inference_steps": 2,
        GUIDANCE.get(name, "guidance_scale"): guidance,
        "output_type": "np",
        "generator": torch.Generator("cpu").manual_seed(seed),
    }
    if name != "flux.1-dev":
        arguments["negative_prompt"] = "blurred"
    drawn = pipeline(**{**arguments, **ARGUMENTS.get(name, {}), **changes})
    return np.asarray(drawn.frames if hasattr(drawn, "frames") else drawn.images)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def test_two_steps_draw_something(usual: np.ndarray) -> None:
    assert np.isfinite(usual).all()
    assert usual.shape[-3:] == (64, 64, 3)
    assert usual.std() > 0.05
    # Clipped pixels would hide differences.
    assert ((usual > 0) & (usual < 1)).mean() > 0.7


def test_the_same_request_draws_the_same(
    name: str, pipeline: DiffusionPipeline, usual: np.ndarray
) -> None:
    assert np.array_equal(draw(name, pipeline), usual)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a blue circle on a {blue} background, 漢字 ☂"},
        {"prompt": ""},
        {"num_inference_steps": 3},
        {"guidance": 7.0},
        {"seed": 8},
    ],
    ids=["word", "no prompt", "steps", "guidance", "seed"],
)
def test_what_a_request_says_decides_the_picture(
    name: str, pipeline: DiffusionPipeline, usual: np.ndarray, change: dict[str, Any]
) -> None:
    assert difference(draw(name, pipeline, **change), usual) > VISIBLE


def test_the_negative_prompt_decides_the_picture(
    name: str, pipeline: DiffusionPipeline, usual: np.ndarray
) -> None:
    if name == "flux.1-dev":
        pytest.skip("has no negative prompt")
    assert difference(draw(name, pipeline, negative_prompt="a line"), usual) > VISIBLE


def test_every_component_decides_the_picture(name: str, directory: Path, usual: np.ndarray) -> None:
    pipeline = stock_pipeline(directory)
    models = {key: each for key, each in pipeline.components.items() if isinstance(each, nn.Module)}
    assert sorted(models) == COMPONENTS.get(name, USUAL_COMPONENTS)
    for key, model in models.items():
        right = {each: value.clone() for each, value in model.state_dict().items()}
        draw_weights(model, "other weights")
        assert difference(draw(name, pipeline), usual) > VISIBLE, key
        model.load_state_dict(right)
    assert np.array_equal(draw(name, pipeline), usual)


@pytest.mark.exhaustive  # Minutes on a processor, and of the libraries' code alone.
def test_bfloat16_draws_much_the_same(name: str, directory: Path, usual: np.ndarray) -> None:
    rounded = draw(name, stock_pipeline(directory, torch.bfloat16))
    assert np.isfinite(rounded).all()
    assert 0 < difference(rounded, usual) < 0.1


def test_wan_hands_over_from_one_expert_to_the_other_half_way(tmp_path: Path) -> None:
    name = "wan2.2-t2v-a14b"
    pipeline = stock_pipeline(checkpoint(name, tmp_path))
    experts: list[str] = []
    for each in ("transformer", "transformer_2"):

        def note(*_: object, each: str = each) -> None:
            experts.append(each)

        getattr(pipeline, each).register_forward_pre_hook(note)
    draw(name, pipeline, num_inference_steps=4)
    # Twice a step: with the prompt and with the negative prompt.
    assert experts == ["transformer"] * 4 + ["transformer_2"] * 4
