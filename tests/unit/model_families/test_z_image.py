import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline

from services.domain.element_type import ElementType
from services.domain.errors import ConfigurationError, InvalidRequest, TriptychError
from services.domain.generation import GenerationParameters, GenerationRequest, resolve
from services.domain.model import GenerationDefaults
from services.model_api.directory import ModelDirectory
from services.model_api.stage_model import StageModel
from services.model_api.stages import DenoiserModel, EncoderModel
from services.model_families.loading import load_denoiser, load_encoder
from services.model_families.z_image.spec import MAX_PROMPT_TOKENS, SPEC
from tests.checkpoints import checkpoint

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
        request = GenerationRequest.model_validate(small | asked)
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
    assert encoder.model.encode(ask(guidance_scale=0.5)).keys() == CONDITIONING.keys()
    assert encoder.model.encode(ask(guidance_scale=0.0)).keys() == {"prompt_embeds"}
    with pytest.raises(InvalidRequest, match=r"negative_prompt: has no effect unless .* above 0"):
        ask(guidance_scale=0.0, negative_prompt="grey")


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_prompt_with_too_many_tokens_is_refused_before_anything_is_encoded(
    encoder: StageModel[EncoderModel], ask: Callable[..., GenerationParameters], field: str
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the text encoder ran")

    handle = encoder.model.components["text_encoder"].register_forward_pre_hook(fail)
    try:
        with pytest.raises(
            InvalidRequest, match=rf"^{field}: has \d+ tokens; allowed are at most 512$"
        ):
            encoder.model.encode(ask(**{field: "7" * 600}))
    finally:
        handle.remove()


def test_every_prompt_up_to_the_limit_is_read_whole(
    encoder: StageModel[EncoderModel], ask: Callable[..., GenerationParameters]
) -> None:
    counts = []
    for length in range(490, 515):
        try:
            tensors = encoder.model.encode(ask(prompt="7" * length, guidance_scale=0.0))
        except InvalidRequest:
            continue
        counts.append(tensors["prompt_embeds"].shape[1])
    # One token per digit, and those of the chat around them.
    assert counts == list(range(counts[0], MAX_PROMPT_TOKENS + 1))
    assert len(counts) < 25


WRONG_CONDITIONINGS: dict[str, dict[str, torch.Tensor | None]] = {
    "missing": dict.fromkeys(CONDITIONING),
    "unguided": {"negative_prompt_embeds": None},
    "another model's": {"prompt_embeds": torch.zeros(1, 5, 64)},
    "without a row": {"prompt_embeds": torch.zeros(5, 32)},
    "empty": {"prompt_embeds": torch.zeros(1, 0, 32)},
    "another type": {"prompt_embeds": torch.zeros(1, 5, 32, dtype=torch.bfloat16)},
}


@pytest.mark.parametrize("kind", WRONG_CONDITIONINGS)
def test_conditioning_that_does_not_go_with_the_request_is_refused(
    denoiser: StageModel[DenoiserModel], ask: Callable[..., GenerationParameters], kind: str
) -> None:
    denoiser.model.prepare(ask(), CONDITIONING)
    changed = {**CONDITIONING, **WRONG_CONDITIONINGS[kind]}
    wrong = {name: each for name, each in changed.items() if each is not None}
    with pytest.raises(TriptychError, match=r"^conditioning: "):
        denoiser.model.prepare(ask(), wrong)


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
    state = model.model.prepare(parameters, encoder.model.encode(parameters))
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
