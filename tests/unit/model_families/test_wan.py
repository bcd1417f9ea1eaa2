import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from services.loaded_models.loading import load_denoiser, load_vae
from services.model_families.wan.denoiser import WanDenoiser
from tests.checkpoints import checkpoint
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.family_options import VideoOptions
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import MediaFormat


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return checkpoint("wan2.2-t2v-a14b", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def loaded(directory: Path) -> Any:
    return load_denoiser(directory, None, ElementType.FLOAT32, "cpu")


def asked(loaded: Any, **fields: object) -> GenerationParameters:
    small = {"prompt": "a cat", "width": 32, "height": 32, "seed": 1}
    small["options"] = VideoOptions(num_frames=1)
    request = GenerationRequest(**(small | fields))
    return resolve(request, loaded.loaded.model, lambda: 1)


def test_each_step_is_taken_by_the_expert_for_its_noise_level_and_by_no_other(loaded: Any) -> None:
    denoiser = loaded.model
    assert isinstance(denoiser, WanDenoiser)
    parameters = asked(loaded, steps=8, guidance_scale=1.0)
    width = denoiser.components["transformer"].config.text_dim
    state = denoiser.prepare(parameters, {"prompt_embeds": torch.zeros(1, 512, width)})
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, module in denoiser.components.items()
    ]
    sigmas = []
    for _ in range(state.total_steps):
        sigmas.append(state.sigma)
        denoiser.step(state)
    for hook in hooks:
        hook.remove()
    expected = ["transformer" if each >= 0.875 else "transformer_2" for each in sigmas]
    assert ran == expected
    assert set(ran) == {"transformer", "transformer_2"}


def test_the_vae_is_loaded_in_float32_whatever_the_model_computes_in(directory: Path) -> None:
    rounded = load_vae(directory, None, ElementType.BFLOAT16, "cpu")
    exact = load_vae(directory, None, ElementType.FLOAT32, "cpu")
    (component,) = rounded.loaded.components
    assert component.dtype is ElementType.FLOAT32
    assert rounded.loaded.model.dtype is ElementType.BFLOAT16
    pairs = zip(
        rounded.model.components["vae"].parameters(),
        exact.model.components["vae"].parameters(),
        strict=True,
    )
    assert all(torch.equal(*each) for each in pairs)


def test_a_video_is_the_default_and_frames_can_be_had(loaded: Any) -> None:
    limits = loaded.loaded.model.capabilities
    assert limits.media_formats == (MediaFormat.MP4, MediaFormat.PNG_ARCHIVE)
    assert asked(loaded).media_format is MediaFormat.MP4
    assert asked(loaded, options=None).options == VideoOptions(
        num_frames=81, frames_per_second=16, low_noise_guidance_scale=3.0
    )


@pytest.mark.parametrize("frames", [0, 2, 80, 245])
def test_lengths_that_are_not_four_k_plus_one_are_refused(loaded: Any, frames: int) -> None:
    with pytest.raises(InvalidRequest, match=f"video.num_frames: is {frames}; allowed are 1, 5"):
        asked(loaded, options=VideoOptions(num_frames=frames))


def test_a_still_picture_is_no_video(loaded: Any) -> None:
    with pytest.raises(InvalidRequest, match="media_format: is png; allowed are mp4, png_archive"):
        asked(loaded, media_format="png")


def _index(change: dict[str, object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "model_index.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))

    return write


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_index({"boundary_ratio": None}), "boundary_ratio is None; served are models with two"),
        (_index({"boundary_ratio": 1.5}), "boundary_ratio is 1.5"),
        (_index({"expand_timesteps": True}), "expand_timesteps is true"),
        (_index({"transformer_2": [None, None]}), "transformer_2 is"),
    ],
)
def test_variants_that_are_not_served_are_refused_when_they_are_loaded(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    folder = checkpoint("wan2.2-t2v-a14b", tmp_path)
    change(folder)
    with pytest.raises(ConfigurationError, match=said):
        load_denoiser(folder, None, ElementType.FLOAT32, "cpu")
