import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline

from services.loaded_models.loading import load_denoiser, load_encoder
from services.loaded_models.stage_model import StageModel
from services.model_families.z_image.spec import SPECS
from services.model_files.directory import ModelDirectory
from services.model_ports.encoding import encode_all
from services.model_ports.stages import DenoiserModel, EncoderModel
from tests.checkpoints import checkpoint
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import GenerationDefaults

(SPEC,) = SPECS

FLOAT32 = ElementType.FLOAT32
CONDITIONING = {
    "prompt_embeds": torch.zeros(1, 5, 32),
    "negative_prompt_embeds": torch.zeros(1, 3, 32),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("z-image-turbo", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(whole, tmp_path / whole.name))


@pytest.fixture(scope="module")
def encoder(whole: Path) -> StageModel[EncoderModel]:
    return load_encoder(whole, None, FLOAT32, "cpu")


@pytest.fixture(scope="module")
def denoiser(whole: Path) -> StageModel[DenoiserModel]:
    return load_denoiser(whole, None, FLOAT32, "cpu")


@pytest.fixture
def ask(denoiser: StageModel[DenoiserModel]) -> Callable[..., GenerationParameters]:
    def ask(**asked: object) -> GenerationParameters:
        small = {"prompt": "a red circle", "width": 64, "height": 32, "steps": 2, "seed": 1}
        request = GenerationRequest(**(small | asked))
        return resolve(request, denoiser.loaded.model, draw_seed=lambda: 0)

    return ask


def configured(directory: Path, **scheduler: object) -> Path:
    file = directory / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | scheduler))
    return directory


def test_what_a_request_leaves_out_is_as_published(whole: Path) -> None:
    assert SPEC.capabilities(ModelDirectory(whole)).defaults == GenerationDefaults(
        width=1024, height=1024, steps=50, guidance_scale=5.0, negative_prompt=""
    )


def test_a_directory_of_few_steps_says_so_in_its_manifest(directory: Path) -> None:
    manifest = {"defaults": {"steps": 9, "guidance_scale": 0.0}}
    (directory / "triptych.json").write_text(json.dumps(manifest))
    model = load_denoiser(directory, None, FLOAT32, "cpu").loaded.model
    parameters = resolve(GenerationRequest(prompt="a circle"), model, draw_seed=lambda: 0)
    assert (parameters.steps, parameters.guided) == (9, False)


def test_any_guidance_above_zero_runs_both_branches(
    encoder: StageModel[EncoderModel], ask: Callable[..., GenerationParameters]
) -> None:
    assert (
        encode_all(encoder.model.encodings(ask(guidance_scale=0.5))).keys() == CONDITIONING.keys()
    )
    assert encode_all(encoder.model.encodings(ask(guidance_scale=0.0))).keys() == {"prompt_embeds"}
    with pytest.raises(InvalidRequest, match=r"negative_prompt: has no effect unless .* above 0"):
        ask(guidance_scale=0.0, negative_prompt="grey")


def test_latents_stay_in_float32_whatever_the_model_computes_in(
    whole: Path, ask: Callable[..., GenerationParameters]
) -> None:
    model = load_denoiser(whole, None, ElementType.BFLOAT16, "cpu").model
    conditioning = {name: tensor.bfloat16() for name, tensor in CONDITIONING.items()}
    state = model.prepare(ask(), conditioning)
    model.step(state)
    assert model.finish(state)["latents"].dtype == torch.float32


def test_a_schedule_that_follows_the_size_is_the_published_one(
    directory: Path, encoder: StageModel[EncoderModel], ask: Callable[..., GenerationParameters]
) -> None:
    model = load_denoiser(configured(directory, use_dynamic_shifting=True), None, FLOAT32, "cpu")
    pipeline = ZImagePipeline.from_pretrained(directory, vae=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    parameters = ask(steps=3)
    state = model.model.prepare(parameters, encode_all(encoder.model.encodings(parameters)))
    sigmas = []
    for _ in range(parameters.steps):
        sigmas.append(state.sigma)
        model.model.step(state)
    published = pipeline(
        prompt=parameters.prompt,
        width=parameters.width,
        height=parameters.height,
        num_inference_steps=parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        output_type="latent",
    ).images
    assert torch.equal(model.model.finish(state)["latents"], published)
    assert sigmas == pipeline.scheduler.sigmas[:-1].tolist()
    # Shifted for 8 tokens, not by the fixed factor.
    assert sigmas[1] == pytest.approx(0.7597, abs=0.0001)


def test_a_scheduler_that_a_seed_does_not_decide_is_refused(directory: Path) -> None:
    configured(directory, stochastic_sampling=True)
    with pytest.raises(ConfigurationError, match="stochastic_sampling is true; a seed would not"):
        load_denoiser(directory, None, FLOAT32, "cpu")
