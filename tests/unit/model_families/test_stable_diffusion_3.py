import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import CLIPTokenizer

from services.loaded_models.loading import load_denoiser, load_encoder
from services.loaded_models.stage_model import StageModel
from services.model_families.stable_diffusion_3.spec import SPECS
from services.model_files.directory import ModelDirectory
from services.model_ports.encoding import encode_all
from services.model_ports.stages import DenoiserModel, EncoderModel
from tests.checkpoints import checkpoint
from tests.checkpoints.sd3 import build_without_t5
from tests.checkpoints.stock import stock_pipeline
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, InvalidRequest, TriptychError
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import Capabilities, GenerationDefaults

(SPEC,) = SPECS

FLOAT32 = ElementType.FLOAT32
CLIP_TOKENS = 77
CONDITIONING = {
    "prompt_embeds": torch.zeros(1, 333, 64),
    "pooled_prompt_embeds": torch.zeros(1, 48),
    "negative_prompt_embeds": torch.zeros(1, 333, 64),
    "negative_pooled_prompt_embeds": torch.zeros(1, 48),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("stable-diffusion-3.5-medium", tmp_path_factory.mktemp("checkpoint"))


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


def configure(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def capabilities(path: Path) -> Capabilities:
    return SPEC.capabilities(ModelDirectory(path))


def test_what_a_request_leaves_out_is_as_published(whole: Path) -> None:
    assert capabilities(whole).defaults == GenerationDefaults(
        width=1024, height=1024, steps=28, guidance_scale=7.0, negative_prompt=""
    )


def test_pictures_are_as_large_as_there_are_positions(directory: Path) -> None:
    config = directory / "transformer" / "config.json"
    sides = []
    for positions in (64, 192, 384):
        configure(config, pos_embed_max_size=positions)
        sides.append(capabilities(directory).max_side)
    assert sides == [1024, 3072, 4096]


def test_the_largest_side_can_be_drawn(
    denoiser: StageModel[DenoiserModel], ask: Callable[..., GenerationParameters]
) -> None:
    parameters = ask(width=1024, height=32, steps=1)
    state = denoiser.model.prepare(parameters, CONDITIONING)
    denoiser.model.step(state)
    latents = denoiser.model.finish(state)["latents"]
    assert latents.shape == (1, 16, 4, 128)
    assert latents.isfinite().all()
    with pytest.raises(InvalidRequest, match="width: is 1040; allowed are multiples of 16"):
        ask(width=1040)


def test_sizes_follow_the_patches_and_the_vae(directory: Path) -> None:
    assert capabilities(directory).size_multiple == 16
    configure(directory / "transformer" / "config.json", patch_size=4)
    assert capabilities(directory).size_multiple == 32
    configure(directory / "vae" / "config.json", block_out_channels=[8, 8, 8])
    assert capabilities(directory).size_multiple == 16


@pytest.mark.parametrize("key", ["patch_size", "pos_embed_max_size"])
@pytest.mark.parametrize("value", [None, 0, -1, 2.5, True, "2"])
def test_a_transformer_that_says_no_size_is_refused(
    directory: Path, key: str, value: object
) -> None:
    configure(directory / "transformer" / "config.json", **{key: value})
    with pytest.raises(ConfigurationError, match=rf"{key} is .*, not a positive whole number"):
        capabilities(directory)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_guidance_is_off_up_to_one(ask: Callable[..., GenerationParameters], scale: float) -> None:
    assert not ask(guidance_scale=scale).guided
    with pytest.raises(InvalidRequest, match=r"negative_prompt: has no effect unless .* above 1"):
        ask(guidance_scale=scale, negative_prompt="grey")


def test_t5_reads_what_is_beyond_the_clips(
    encoder: StageModel[EncoderModel], ask: Callable[..., GenerationParameters], whole: Path
) -> None:
    opening = "7" * 100
    clip = CLIPTokenizer.from_pretrained(whole / "tokenizer", local_files_only=True)
    assert len(clip(opening).input_ids) > CLIP_TOKENS
    one, other = (encode_all(encoder.model.encodings(ask(prompt=opening + end))) for end in "12")
    rows_one, rows_other = one["prompt_embeds"][0], other["prompt_embeds"][0]
    assert torch.equal(rows_one[:CLIP_TOKENS], rows_other[:CLIP_TOKENS])
    assert not torch.equal(rows_one[CLIP_TOKENS:], rows_other[CLIP_TOKENS:])


def test_an_unguided_request_has_no_second_conditioning(
    encoder: StageModel[EncoderModel], ask: Callable[..., GenerationParameters]
) -> None:
    plain = {"prompt_embeds", "pooled_prompt_embeds"}
    assert encode_all(encoder.model.encodings(ask(guidance_scale=1.0))).keys() == plain
    guided = encode_all(encoder.model.encodings(ask()))
    assert {name: tensor.shape for name, tensor in guided.items()} == {
        name: tensor.shape for name, tensor in CONDITIONING.items()
    }


def test_conditioning_of_another_length_is_refused(
    denoiser: StageModel[DenoiserModel], ask: Callable[..., GenerationParameters]
) -> None:
    denoiser.model.prepare(ask(), CONDITIONING)
    of_t5_alone = {name: tensor[:, :256] for name, tensor in CONDITIONING.items()}
    with pytest.raises(TriptychError, match=r"prompt_embeds has shape .* reads \(1, 333, 64\)"):
        denoiser.model.prepare(ask(), of_t5_alone)


def test_a_schedule_that_follows_the_size_is_the_published_one(
    directory: Path,
    encoder: StageModel[EncoderModel],
    ask: Callable[..., GenerationParameters],
    denoiser: StageModel[DenoiserModel],
) -> None:
    configure(directory / "scheduler" / "scheduler_config.json", use_dynamic_shifting=True)
    dynamic = load_denoiser(directory, None, FLOAT32, "cpu").model
    parameters = ask()
    conditioning = encode_all(encoder.model.encodings(parameters))
    drawn = []
    for model in (dynamic, denoiser.model):
        state = model.prepare(parameters, conditioning)
        for _ in range(parameters.steps):
            model.step(state)
        drawn.append(model.finish(state)["latents"])
    pipeline = StableDiffusion3Pipeline.from_pretrained(directory, vae=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    published = pipeline(
        prompt=parameters.prompt,
        width=parameters.width,
        height=parameters.height,
        num_inference_steps=parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        output_type="latent",
    ).images
    assert torch.equal(drawn[0], published)
    assert not torch.equal(drawn[1], published)


def test_a_scheduler_that_a_seed_does_not_decide_is_refused(directory: Path) -> None:
    configure(directory / "scheduler" / "scheduler_config.json", stochastic_sampling=True)
    with pytest.raises(ConfigurationError, match="stochastic_sampling is true; a seed would not"):
        load_denoiser(directory, None, FLOAT32, "cpu")


def test_a_model_without_t5_draws_what_the_published_pipeline_draws(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    directory = tmp_path / "without-t5"
    build_without_t5(directory)
    encoder = load_encoder(directory, None, FLOAT32, "cpu")
    denoiser = load_denoiser(directory, None, FLOAT32, "cpu").model
    assert [part.name for part in encoder.loaded.components] == ["text_encoder", "text_encoder_2"]
    asked = GenerationRequest(
        prompt="a red circle", negative_prompt="grey", width=64, height=32, steps=2, seed=1
    )
    parameters = resolve(asked, encoder.loaded.model, draw_seed=lambda: 0)
    state = denoiser.prepare(parameters, encode_all(encoder.model.encodings(parameters)))
    for _ in range(parameters.steps):
        denoiser.step(state)
    published = stock_pipeline(directory)(
        prompt="a red circle",
        negative_prompt="grey",
        width=64,
        height=32,
        num_inference_steps=2,
        generator=torch.Generator("cpu").manual_seed(1),
        output_type="latent",
    ).images
    assert torch.equal(denoiser.finish(state)["latents"], published)
    assert encoder.loaded.model.capabilities.max_prompt_tokens == CLIP_TOKENS
    with pytest.raises(InvalidRequest, match=r"prompt: has .* allowed are at most 77"):
        encode_all(encoder.model.encodings(replace(parameters, prompt="7" * 100)))
