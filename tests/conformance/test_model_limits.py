"""What every model refuses, and that it does all that it does not refuse."""

from collections.abc import Callable

import pytest
import torch

from services.domain.element_type import ElementType
from services.domain.errors import InvalidRequest, TriptychError
from services.domain.generation import GenerationParameters
from services.model_api.stages import Tensors
from tests.conformance.gallery import Gallery
from tests.conformance.references import Reference, references
from tests.conformance.split_stages import Split

SMALL: dict[str, object] = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture(params=references(), ids=lambda reference: reference.model)
def split(gallery: Gallery, request: pytest.FixtureRequest) -> Split:
    assert isinstance(request.param, Reference)
    return gallery.split(request.param, ElementType.FLOAT32)


@pytest.fixture
def parameters(split: Split) -> GenerationParameters:
    return split.parameters(**SMALL)


def accepts(split: Split, digits: int) -> bool:
    try:
        split.encoder.model.encode(split.parameters(**SMALL, prompt="7" * digits))
    except InvalidRequest:
        return False
    return True


def test_a_prompt_with_too_many_tokens_is_refused_before_anything_is_encoded(
    split: Split,
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a text encoder ran")

    limits = split.encoder.loaded.model.capabilities
    fields = ["prompt", *(["negative_prompt"] if limits.supports_negative_prompt else [])]
    refusal = rf"has \d+ tokens; allowed are at most {limits.max_prompt_tokens}$"
    modules = split.encoder.model.components.values()
    hooks = [module.register_forward_pre_hook(fail) for module in modules]
    try:
        for field in fields:
            asked = {**SMALL, "guidance_scale": limits.defaults.guidance_scale, field: "7" * 900}
            with pytest.raises(InvalidRequest, match=f"^{field}: {refusal}"):
                split.encoder.model.encode(split.parameters(**asked))
    finally:
        for hook in hooks:
            hook.remove()


def test_the_longest_prompt_that_is_not_refused_is_read_to_its_end(split: Split) -> None:
    limit = split.encoder.loaded.model.capabilities.max_prompt_tokens
    # One token per digit; fewer digits than tokens, because of what stands around them.
    longest = max(
        length for length in (limit - spare for spare in range(24)) if accepts(split, length)
    )
    with pytest.raises(InvalidRequest, match=f"has {limit + 1} tokens"):
        split.encoder.model.encode(split.parameters(**SMALL, prompt="7" * (longest + 1)))
    whole, other = (
        split.encoder.model.encode(split.parameters(**SMALL, prompt="7" * (longest - 1) + last))
        for last in "78"
    )
    assert not torch.equal(whole["prompt_embeds"], other["prompt_embeds"])


def test_the_fewest_steps_draw_a_picture_and_fewer_are_refused(split: Split) -> None:
    fewest = split.denoiser.loaded.model.capabilities.min_steps
    drawn = split.draw(split.parameters(**SMALL | {"steps": fewest}))
    assert torch.isfinite(drawn.latents).all()
    with pytest.raises(InvalidRequest, match=f"steps: is {fewest - 1}; allowed are {fewest} to"):
        split.parameters(**SMALL | {"steps": fewest - 1})


WRONG: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "batched": lambda tensor: torch.cat([tensor, tensor]),
    "without a row": lambda tensor: tensor[0],
    "wider": lambda tensor: torch.cat([tensor, tensor], dim=-1),
    "empty": lambda tensor: tensor[:, :0],
    "another type": lambda tensor: tensor.bfloat16(),
}


@pytest.mark.parametrize("kind", WRONG)
def test_conditioning_that_this_model_does_not_read_is_refused(
    split: Split, parameters: GenerationParameters, kind: str
) -> None:
    right = split.encoder.model.encode(parameters)
    split.denoiser.model.prepare(parameters, right)
    for name, tensor in right.items():
        with pytest.raises(TriptychError, match=f"^conditioning: {name} "):
            split.denoiser.model.prepare(parameters, {**right, name: WRONG[kind](tensor)})


def test_conditioning_that_lacks_a_tensor_or_has_another_is_refused(
    split: Split, parameters: GenerationParameters
) -> None:
    right = split.encoder.model.encode(parameters)
    wrong: list[Tensors] = [{**right, "more": torch.zeros(1)}]
    wrong += [{name: right[name] for name in right if name != lacking} for lacking in right]
    for each in wrong:
        with pytest.raises(TriptychError, match=r"^conditioning: holds .*; this request needs "):
            split.denoiser.model.prepare(parameters, each)


def test_latents_that_do_not_go_with_the_request_are_refused(
    split: Split, parameters: GenerationParameters
) -> None:
    latents = split.denoise(parameters, split.encoder.model.encode(parameters))["latents"]
    wrong: list[Tensors] = [
        {},
        {"latents": latents[..., :-2]},
        {"latents": latents[:, :-1]},
        {"latents": torch.cat([latents, latents])},
        {"latents": latents, "more": torch.zeros(1)},
    ]
    for each in wrong:
        with pytest.raises(
            TriptychError, match=r"^latents: are .*; this request needs latents of "
        ):
            split.vae.model.decode(parameters, each)


def test_a_picture_that_is_not_finite_is_an_error_rather_than_black(
    split: Split, parameters: GenerationParameters
) -> None:
    latents = split.denoise(parameters, split.encoder.model.encode(parameters))["latents"].clone()
    latents.view(-1)[7] = torch.nan
    with pytest.raises(TriptychError, match="picture is not finite"):
        split.vae.model.decode(parameters, {"latents": latents})
