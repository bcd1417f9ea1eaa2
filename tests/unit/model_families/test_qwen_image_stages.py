from pathlib import Path

import pytest
import torch

from services.domain.element_type import ElementType
from services.domain.errors import InvalidRequest, TriptychError
from services.domain.generation import GenerationParameters, GenerationRequest, resolve
from services.model_api.stage_model import StageModel
from services.model_api.stages import DenoiserModel, EncoderModel, VaeModel
from services.model_families.loading import load_denoiser, load_encoder, load_vae
from services.model_families.qwen_image.spec import MAX_PROMPT_TOKENS

DEMO = Path(__file__).parents[3] / "models" / "demo"
FLOAT32 = ElementType.FLOAT32


@pytest.fixture(scope="module")
def encoder() -> StageModel[EncoderModel]:
    return load_encoder(DEMO, None, FLOAT32, "cpu")


@pytest.fixture(scope="module")
def denoiser() -> StageModel[DenoiserModel]:
    return load_denoiser(DEMO, None, FLOAT32, "cpu")


@pytest.fixture(scope="module")
def vae() -> StageModel[VaeModel]:
    return load_vae(DEMO, None, FLOAT32, "cpu")


@pytest.fixture
def parameters(denoiser: StageModel[DenoiserModel]) -> GenerationParameters:
    request = GenerationRequest(prompt="a red circle", width=64, height=32, steps=2, seed=1)
    return resolve(request, denoiser.loaded.model, draw_seed=lambda: 0)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_prompt_with_too_many_tokens_is_refused_before_anything_is_encoded(
    encoder: StageModel[EncoderModel], parameters: GenerationParameters, field: str
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the text encoder ran")

    long = parameters.model_copy(update={field: "7" * 600})
    handle = encoder.model.components["text_encoder"].register_forward_pre_hook(fail)
    try:
        with pytest.raises(
            InvalidRequest, match=rf"^{field}: has \d+ tokens; allowed are at most 512$"
        ):
            encoder.model.encode(long)
    finally:
        handle.remove()


def test_the_limit_is_what_the_denoiser_would_read(
    encoder: StageModel[EncoderModel], parameters: GenerationParameters
) -> None:
    counts = {}
    for length in range(480, 520):
        prompt = "7" * length
        try:
            tensors = encoder.model.encode(parameters.model_copy(update={"prompt": prompt}))
        except InvalidRequest:
            continue
        counts[length] = tensors["prompt_embeds"].shape[1]
    # One token per digit: every prompt up to the limit is read whole, and the next is refused.
    assert max(counts.values()) == MAX_PROMPT_TOKENS
    assert sorted(counts.values()) == list(range(min(counts.values()), MAX_PROMPT_TOKENS + 1))


def test_an_unguided_request_has_no_second_conditioning(
    encoder: StageModel[EncoderModel], parameters: GenerationParameters
) -> None:
    plain = parameters.model_copy(update={"negative_prompt": None, "guidance_scale": 1.0})
    assert encoder.model.encode(plain).keys() == {"prompt_embeds"}
    assert encoder.model.encode(parameters).keys() == {"prompt_embeds", "negative_prompt_embeds"}


WRONG_CONDITIONINGS: dict[str, dict[str, torch.Tensor | None]] = {
    "missing": {"prompt_embeds": None, "negative_prompt_embeds": None},
    "unguided": {"negative_prompt_embeds": None},
    "another model's": {"prompt_embeds": torch.zeros(1, 5, 65)},
    "batched": {"prompt_embeds": torch.zeros(2, 5, 64)},
    "empty": {"prompt_embeds": torch.zeros(1, 0, 64)},
    "another type": {"prompt_embeds": torch.zeros(1, 5, 64, dtype=torch.bfloat16)},
    "too many": {"pooled": torch.zeros(1, 64)},
}


@pytest.mark.parametrize("kind", WRONG_CONDITIONINGS)
def test_conditioning_that_does_not_go_with_the_request_is_refused(
    denoiser: StageModel[DenoiserModel], parameters: GenerationParameters, kind: str
) -> None:
    right = {
        "prompt_embeds": torch.zeros(1, 5, 64),
        "negative_prompt_embeds": torch.zeros(1, 3, 64),
    }
    denoiser.model.prepare(parameters, right)
    changed = {**right, **WRONG_CONDITIONINGS[kind]}
    wrong = {name: each for name, each in changed.items() if each is not None}
    with pytest.raises(TriptychError, match=r"^conditioning: "):
        denoiser.model.prepare(parameters, wrong)


def test_the_schedule_starts_from_pure_noise_and_falls(
    denoiser: StageModel[DenoiserModel], parameters: GenerationParameters
) -> None:
    conditioning = {
        "prompt_embeds": torch.zeros(1, 5, 64),
        "negative_prompt_embeds": torch.zeros(1, 3, 64),
    }
    five = parameters.model_copy(update={"steps": 5})
    state = denoiser.model.prepare(five, conditioning)
    sigmas = []
    while state.completed_steps < state.total_steps:
        sigmas.append(state.sigma)
        denoiser.model.step(state)
    assert len(sigmas) == 5
    assert sigmas[0] == 1.0
    assert sigmas == sorted(sigmas, reverse=True)
    assert state.sigma == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"latents": torch.zeros(1, 16, 1, 8, 8)},
        {"latents": torch.zeros(1, 8, 1, 4, 8)},
        {"latents": torch.zeros(1, 16, 1, 4, 8), "more": torch.zeros(1)},
    ],
    ids=["none", "another size", "another model's", "too many"],
)
def test_latents_that_do_not_go_with_the_request_are_refused(
    vae: StageModel[VaeModel], parameters: GenerationParameters, wrong: dict[str, torch.Tensor]
) -> None:
    vae.model.decode(parameters, {"latents": torch.zeros(1, 16, 1, 4, 8)})
    with pytest.raises(TriptychError, match=r"^latents: are .*needs latents of \(1, 16, 1, 4, 8\)"):
        vae.model.decode(parameters, wrong)


def test_a_picture_that_is_not_finite_is_an_error_rather_than_black(
    vae: StageModel[VaeModel], parameters: GenerationParameters
) -> None:
    latents = torch.zeros(1, 16, 1, 4, 8)
    latents[0, 3, 0, 1, 2] = torch.nan
    with pytest.raises(TriptychError, match="picture is not finite"):
        vae.model.decode(parameters, {"latents": latents})
